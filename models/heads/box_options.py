"""The keys of a recipe that the box losses read, which the heads with a choice of them share."""

from collections.abc import Mapping

from models.heads.base import RecipeOption
from models.losses.box_loss import BoxLoss, BoxOptions


def _option(key: str, bounds: tuple[float, float], search: tuple[float, float] | None) -> RecipeOption:
    return RecipeOption(f"box_options.{key}", getattr(BoxOptions, key), bounds, search)


BOX_OPTIONS = {
    "nwd_c": _option("nwd_c", (0.1, 1e4), (4.0, 64.0)),
    "nwd_weight": _option("nwd_weight", (0.0, 1.0), (0.0, 1.0)),
    "inner_ratio": _option("inner_ratio", (0.1, 10.0), (0.5, 1.5)),
    "eiou_gamma": _option("eiou_gamma", (0.0, 10.0), (0.0, 2.0)),
    "wiou_alpha": _option("wiou_alpha", (1.001, 10.0), (1.2, 2.5)),
    "wiou_delta": _option("wiou_delta", (0.1, 100.0), (1.5, 6.0)),
    "wiou_momentum": _option("wiou_momentum", (1e-7, 1.0), None),
}


def options_in_use(options: Mapping[str, RecipeOption], box: BoxLoss) -> dict[str, RecipeOption]:
    """A head's options without those that its box loss does not read."""
    return {key: option for key, option in options.items() if key not in BOX_OPTIONS or key in box.reads}
