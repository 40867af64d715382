"""The base class of heads, on which each declares how it is used, and the reading of a head's options."""

from collections.abc import Sequence

from torch import Tensor, nn

from utils.select import EVALUATION, SelectConfig, Selector
from utils.structures import PackedTargets, Raw


class Head(nn.Module):
    """The last row of a model. A subclass sets `num_classes` and `strides` and writes forward, loss and decode.

    selection: how detections are chosen from what `decode` gives, a name in `utils.select.SELECTORS` or a function such
    as a static method; thresholds: of that, in an evaluation.
    """

    selection: str | Selector = "nms"
    thresholds: SelectConfig = EVALUATION
    num_classes: int
    strides: list[int]  # pixels per cell of each level
    out_channels = 0  # no row reads a head

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> the maps of a `Raw`, by name."""
        raise NotImplementedError

    def loss(self, raw: Raw, targets: PackedTargets) -> dict[str, Tensor]:
        """Weighted scalar terms by name, each times the batch size. For training in several processes it also takes
        `share` (`models.losses.normalisers`)."""
        raise NotImplementedError

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, num_classes) in [0, 1], both float32."""
        raise NotImplementedError


def choose(option: str, value: str, known: Sequence[str]) -> str:
    """`value` where it is one of `known`; otherwise ValueError."""
    if value not in known:
        raise ValueError(f"{option} {value!r} is not one of {', '.join(known)}")
    return value


def merge_gains(defaults: dict[str, float], given: dict[str, float] | None) -> dict[str, float]:
    """Loss weights with the given ones replaced. Raises ValueError for a term that the head does not have."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ValueError(f"gains {', '.join(unknown)} are not among {', '.join(defaults)}")
    return {**defaults, **(given or {})}
