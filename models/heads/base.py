"""The base class of heads, on which each declares how it is trained and used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.assign.assignment import Assignment
from utils.errors import UserError
from utils.select import EVALUATION, SelectConfig, Selector
from utils.structures import PackedTargets, Raw


@dataclass(frozen=True)
class RecipeOption:
    """A number of a recipe that is an argument of a head.

    argument: its name in the constructor, or `name.key` for a key of a mapping there; neutral: the default, which a
    recipe may hold for any head; bounds: least and greatest value; search: bounds of `--evolve`, None where it is not
    searched.
    """

    argument: str
    neutral: float = 0.0
    bounds: tuple[float, float] = (0.0, 1e9)
    search: tuple[float, float] | None = None


class Head(nn.Module):
    """The last row of a model. A subclass sets `num_classes` and `strides`, writes forward, loss and decode, and
    declares what differs from the defaults here.

    selection: how detections are chosen from what `decode` gives, a name in `utils.select.SELECTORS` or a static method
    (boxes, scores, config) -> detections; thresholds: of that, in an evaluation. gains: the terms of the loss and their
    default weights, in an instance those in use. recipe: name of a file in `cfg/train`, or of one beside the head's
    file, with .yaml; None: the defaults of `engine.training.recipe.Recipe`. recipe_options: further keys of a recipe,
    in an instance those that it reads. signature: a regular expression found in the names of a state dict that holds
    such a head. renames: for state dicts of other code bases whose order is not ours, regular expressions found in
    their names and what stands for them here, the row's name in the model file (`head`: the last row) and the name in
    the row; the first that is found counts.
    hints: what `forward` takes by name beside its maps, among content (B, 2) (where in their frames the images lie),
    targets (`PackedTargets` in training, else None) and image_size (height, width) of the frame. free_size: whether an
    exported file can take other sizes than the one that it was traced at. level_parts: attributes that are lists of
    modules with one for each of `strides`, so that weights find the level of their stride in another model. A head
    whose constructor takes `added_levels`, how many of its finest levels its base does not have, can be given a finer
    one (`models.levels`).
    """

    selection: str | Selector = "nms"
    thresholds: SelectConfig = EVALUATION
    gains: Mapping[str, float] = {}
    recipe: str | None = None
    recipe_options: Mapping[str, RecipeOption] = {}
    signature: str | None = None
    renames: Mapping[str, str] = {}
    hints: tuple[str, ...] = ()
    free_size: bool = True
    level_parts: tuple[str, ...] = ()
    num_classes: int
    strides: list[int]  # pixels per cell of each level
    out_channels = 0  # no row reads a head

    @property
    def per_cell(self) -> list[int]:
        """Candidates that `decode` gives for a cell of each level; empty for a set of as many as it finds."""
        return [1] * len(self.strides)

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> the maps of a `Raw`, by name."""
        raise NotImplementedError

    def loss(self, raw: Raw, targets: PackedTargets) -> dict[str, Tensor]:
        """Weighted scalar terms by name, each times the batch size. For training in several processes it also takes
        `all_reduce` (`models.losses.normalisers`)."""
        raise NotImplementedError

    @property
    def assigner(self) -> str:
        """What decides which object a prediction learns, in a few words."""
        return "its own assigner"

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """The positives that `loss` of the same arguments learns from, without a gradient. A head of a plugin may leave
        this out; then it cannot be audited."""
        raise UserError(f"{type(self).__name__}: this head does not tell its assignment; its class must define "
                        "`assignment`", code="not-supported")

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, num_classes) in [0, 1], both float32."""
        raise NotImplementedError

    def scale_gains(self, gains: Mapping[str, float], image_size: int) -> dict[str, float]:
        """Gains of a recipe -> gains to train with on images whose longer side has `image_size` pixels."""
        return dict(gains)

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """How many classes the head in a state dict has; None where that does not show. config: of its model."""
        return None

    @classmethod
    def adapt_original(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state dict of another code base as this head would hold it, still under the names there, and the keys of a
        model file that it implies: pixels, options, names, ..."""
        return dict(state), {}

    @classmethod
    def state_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments of the head that show in the tensors of a state dict alone."""
        return {}


def merge_gains(defaults: Mapping[str, float], given: Mapping[str, float] | None) -> dict[str, float]:
    """Loss weights with the given ones replaced. Raises `UserError` for a term that the head does not have."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise UserError(f"gains {', '.join(unknown)} are not among {', '.join(defaults)}", code="unknown-name")
    return {**defaults, **(given or {})}
