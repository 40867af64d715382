"""The head of SSD (Liu et al. 2016): on each map one convolution to the classes, background among them, and one to the
offsets from prior boxes.

Legend: B images, h, w cells of a level, n priors of a cell, P priors of all levels, C classes without the background.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.assign.assignment import Assignment, of_points
from models.assign.prior_match import match_priors
from models.boxes.deltas import decode_deltas
from models.boxes.priors import PriorSpec, prior_boxes
from models.heads.base import Head, RecipeOption, merge_gains
from models.heads.published_ssd import RENAMES, adapt
from models.layers.vgg import xavier
from models.losses import AllReduce
from models.losses.checks import check_maps
from models.losses.multibox import VARIANCES, MultiboxConfig, multibox_loss
from models.registry import choose, register
from utils.errors import UserError
from utils.select import SelectConfig
from utils.structures import PackedTargets, Raw

ORDERS = {"xy": [0, 1, 2, 3], "yx": [1, 0, 3, 2]}  # where x, y, width, height stand among a prior's four channels
AUTO = "auto"
VOC_CLASSES = 20


@register("SSDDetect", multi_input=True)
class SSDDetect(Head):
    """SSD's head; learns by prior matching and hard negative mining.

    sizes: least side of the priors on each level, px, and what would be that of a next one; or such lists by name, of
    which `priors` picks one (auto: that called voc for 20 classes, else coco, as amdegroot/ssd.pytorch does). ratios,
    steps, clip: as in `models.boxes.priors.PriorSpec`. order: of the offsets in the channels, xy, or yx for ASSD's
    code. init: xavier, as SSD's, or torch, its default. match_iou, neg_pos: as in
    `models.losses.multibox.MultiboxConfig`.
    """

    gains = {"loc": 1.0, "conf": 1.0}
    thresholds = SelectConfig(0.01, 0.45, 200, multi_label=True, per_class=200)
    recipe = "ssd"
    recipe_options = {"neg_pos": RecipeOption("neg_pos", 3.0, (0.0, 1e3)),
                      "match_iou": RecipeOption("match_iou", 0.5, (0.01, 1.0))}
    renames = RENAMES
    signature = r"(^|\.)(loc|locs_layers|regression_head\.module_list)\.\d\.weight$"

    def __init__(self, channels: list[int], nc: int, sizes: Sequence[float] | Mapping[str, Sequence[float]],
                 ratios: Sequence[Sequence[float]], steps: Sequence[int], *, priors: str = AUTO, clip: str = "none",
                 order: str = "xy", init: str = "xavier", gains: dict[str, float] | None = None,
                 match_iou: float = 0.5, neg_pos: float = 3.0) -> None:
        super().__init__()
        self.num_classes, self.strides = nc, list(steps)
        self.gains = merge_gains(self.gains, gains)
        self.loss_config = MultiboxConfig(self.gains, match_iou, neg_pos)
        table = pick_sizes(sizes, priors, nc)
        self.priors = PriorSpec(tuple(table), tuple(map(tuple, ratios)), tuple(steps), clip)
        if len(channels) != len(steps):
            raise ValueError(f"{len(channels)} maps for {len(steps)} steps")
        self.order = ORDERS[choose("order", order, ORDERS)]
        pairs = list(zip(channels, self.priors.per_cell, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in pairs)
        self.conf = nn.ModuleList(nn.Conv2d(c, (nc + 1) * n, 3, padding=1) for c, n in pairs)
        if choose("init", init, ("xavier", "torch")) == "xavier":
            for conv in (*self.loc, *self.conf):
                xavier(conv)

    @property
    def per_cell(self) -> list[int]:
        return self.priors.per_cell

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> offsets "loc" (B, 4n, h, w) and logits "conf" (B, (C+1)n, h, w), prior by prior."""
        return {"loc": tuple(conv(x) for conv, x in zip(self.loc, pyramid, strict=True)),
                "conf": tuple(conv(x) for conv, x in zip(self.conf, pyramid, strict=True))}

    def flat(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets (B, P, 4) as t_x, t_y, t_w, t_h; logits (B, P, C + 1); priors (P, 4) xyxy."""
        shapes = tuple((m.shape[2], m.shape[3]) for m in raw.maps["loc"])
        check_maps(shapes, self.strides, raw.image_size)
        offsets, logits = _flatten(raw.maps["loc"], 4), _flatten(raw.maps["conf"], self.num_classes + 1)
        priors = prior_boxes(self.priors, shapes, tuple(raw.image_size), offsets.device)
        return offsets[..., self.order], logits, priors

    def loss(self, raw: Raw, targets: PackedTargets, all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms loc, conf, times the batch size; with `all_reduce` a part of the loss of all processes."""
        return multibox_loss(*self.flat(raw), targets, self.loss_config, all_reduce)

    @property
    def assigner(self) -> str:
        return f"IoU {self.loss_config.match_iou:g} or more, or the best prior of an object"

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """See `Head.assignment`."""
        offsets, _, priors = self.flat(raw)
        found = match_priors(priors, targets, self.loss_config.match_iou)
        counts = [m.shape[1] // 4 * m.shape[2] * m.shape[3] for m in raw.maps["loc"]]
        return of_points(found.box, counts, decode_deltas(offsets.float(), priors, VARIANCES), priors=priors)

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) xyxy in input pixels and scores (B, P, C), float32; P runs level, row, column, prior."""
        offsets, logits, priors = self.flat(raw)
        return decode_deltas(offsets.float(), priors, VARIANCES), logits.float().softmax(-1)[..., 1:]

    @classmethod
    def adapt_original(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `models.heads.published_ssd`."""
        return adapt(state, cls.count_classes(state, {}))

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """From the rows of the first class convolution beside those of the first one of offsets."""
        loc = next((len(v) for k, v in state.items() if re.search(cls.signature, k)), 0)
        conf = next((len(v) for k, v in state.items()
                     if re.search(r"(^|\.)(conf|conf_layers|classification_head\.module_list)\.0\.weight$", k)), 0)
        return 4 * conf // loc - 1 if loc and 4 * conf % loc == 0 and 4 * conf > loc else None


def pick_sizes(sizes: Sequence[float] | Mapping[str, Sequence[float]], priors: str, num_classes: int) -> list[float]:
    """The sizes of priors that `priors` names. Raises `UserError` where there are none of that name."""
    if not isinstance(sizes, Mapping):
        if priors != AUTO:
            raise UserError(f"priors {priors!r}: this model has one table of prior sizes; leave `priors` out",
                            code="unknown-name")
        return list(sizes)
    name = ("voc" if num_classes == VOC_CLASSES else "coco") if priors == AUTO else priors
    return list(sizes[choose("priors", name, sizes)])


def _flatten(maps: Sequence[Tensor], width: int) -> Tensor:
    """Maps (B, n * width, h, w) of all levels -> (B, P, width)."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps], 1)
