"""The anchor heads of YOLOv3, v4, v5, v7 and YOLOR, with and without implicit knowledge.

Legend: B images, L levels, na anchors per cell, h, w cells of a level, nc classes, no = 5 + nc numbers per anchor
(t_x, t_y, t_w, t_h, objectness, classes), N = sum of na*h*w over levels.
"""

import re
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.assign.assignment import Assignment
from models.boxes.decoding import decode_anchor
from models.heads.base import Head, RecipeOption, merge_gains
from models.heads.box_options import BOX_OPTIONS, options_in_use
from models.layers.conv import with_bias
from models.losses import GAIN_RULES, AllReduce, AnchorLossConfig, anchor_head_loss, scale_gains
from models.losses.anchor_head import anchor_assignment
from models.registry import choose, register
from utils.boxes import cxcywh_to_xyxy
from utils.structures import PackedTargets, Raw


def anchor_pairs(anchors: Sequence[Sequence] | int, strides: Sequence[int], added: int = 0) -> list[list[list[float]]]:
    """Per level a list of [width, height] in pixels, from lists that are flat (w, h, w, h, ...) or of pairs.

    A table written in the opposite order of the levels is turned round, as the original code bases do. A number, as
    in YOLOv5's `anchors: 3`, stands for so many per level: squares whose sides run from two to eight strides, with
    which a ratio of 4 reaches everything from half a stride to 32 strides of its level; training puts learned ones in
    their place. added: how many of the first levels the base does not have: a table for the others alone gets the
    halves of its finest level for the one before, and so on. Raises ValueError where the numbers do not make equally
    many pairs per level.
    """
    if isinstance(anchors, int) and not isinstance(anchors, bool):
        if anchors < 1:
            raise ValueError(f"{anchors} anchors per level: give 1 or more, or a table of them")
        sides = [2 * 4 ** (k / (anchors - 1)) for k in range(anchors)] if anchors > 1 else [4.0]
        return [[[side * stride] * 2 for side in sides] for stride in strides]
    try:
        flat = [[float(x) for item in level for x in (item if isinstance(item, list | tuple) else [item])]
                for level in anchors]
    except (TypeError, ValueError):
        flat = []
    if not flat or not flat[0] or any(len(level) != len(flat[0]) or len(level) % 2 for level in flat):
        raise ValueError(f"anchors {anchors!r} are not lists of width, height pairs, equally many per level")
    if added and len(flat) == len(strides) - added:
        pairs = anchor_pairs(anchors, strides[added:])
        for _ in range(added):
            pairs.insert(0, [[w / 2, h / 2] for w, h in pairs[0]])
        return pairs
    if len(flat) != len(strides):
        raise ValueError(f"{len(flat)} lists of anchors for {len(strides)} levels")
    pairs = [[list(pair) for pair in zip(level[::2], level[1::2], strict=True)] for level in flat]
    area = [sum(w * h for w, h in level) for level in pairs]
    return pairs if (area[-1] - area[0]) * (strides[-1] - strides[0]) >= 0 else pairs[::-1]


def anchor_grid(state: Mapping[str, Tensor]) -> Tensor | None:
    """Anchors (levels, per cell, 2) in units of the stride, where a state dict of YOLO's code bases holds them."""
    return next((v for k, v in state.items() if k.rpartition(".")[2] == "anchors" and v.dim() == 3
                 and 0 < v.numel() <= 1000), None)


def anchors_per_cell(table: Sequence[Sequence]) -> int:
    """Anchors of each cell in a model file's table, flat or of pairs."""
    return sum(len(x) if isinstance(x, list) else 1 for x in table[0]) // 2


@register("Detect", "AnchorDetect", multi_input=True)
class AnchorDetect(Head):
    """One 1x1 convolution per level. Anchors are in pixels.

    gain_rule: how the gains of a recipe are scaled (`models.losses.gains`); the arguments before it are those of
    `models.losses.AnchorLossConfig`. added_levels: of the finest levels, which `anchors` and `balance` may leave out;
    the balance then goes on at its coarse end by the ratio of its last two weights.
    """

    gains = {"box": 0.05, "obj": 1.0, "cls": 0.5}
    assign_default = "anchor"
    recipe = "yolov5"
    recipe_options = {"label_smoothing": RecipeOption("label_smoothing", 0.0, (0.0, 1.0)),
                      "fl_gamma": RecipeOption("focal_gamma", 0.0, search=(0.0, 2.0)),
                      "anchor_t": RecipeOption("anchor_t", 4.0, (1.001, 1e3), (2.0, 8.0)),
                      "cls_pw": RecipeOption("cls_pw", 1.0, search=(0.5, 2.0)),
                      "obj_pw": RecipeOption("obj_pw", 1.0, search=(0.5, 2.0)), **BOX_OPTIONS}
    signature = r"\.m\.\d\.weight$"
    prior_slack = 0.99999  # class prior 0.6 / (nc - slack)
    heads = 1  # how many read each level
    level_parts = ("m", "ia", "im", "m2")

    def __init__(self, channels: list[int], nc: int, anchors: Sequence[Sequence] | int, *, strides: list[int],
                 box_loss: str = "ciou", assign: str | None = None, gains: dict[str, float] | None = None,
                 label_smoothing: float = 0.0, focal_gamma: float = 0.0, anchor_t: float = 4.0, cls_pw: float = 1.0,
                 obj_pw: float = 1.0, balance: Sequence[float] | None = None,
                 gain_rule: str = "yolov5", added_levels: int = 0,
                 box_options: dict[str, float] | None = None) -> None:
        super().__init__()
        lead = len(channels) // self.heads
        if list(strides) != list(strides[:lead]) * self.heads:
            raise ValueError(f"inputs have strides {', '.join(map(str, strides))}; {self.heads} maps of each are read")
        self.num_classes, self.strides, self.added_levels = nc, list(strides[:lead]), added_levels
        for _ in range(added_levels if balance is not None and len(balance) == lead - added_levels else 0):
            balance = [*balance, balance[-1] * balance[-1] / balance[-2]]
        if balance is not None and len(balance) != lead:
            raise ValueError(f"balance {list(balance)} has not one weight for each of {lead} levels")
        self.gains = merge_gains(self.gains, gains)
        self.gain_rule = choose("gain_rule", gain_rule, GAIN_RULES)
        self.loss_config = AnchorLossConfig(self.gains, assign or self.assign_default, box_loss, balance,
                                            label_smoothing, focal_gamma, anchor_t, cls_pw, obj_pw, box_options)
        self.recipe_options = options_in_use(self.recipe_options, self.loss_config.box)
        self.mean_iou_loss = self.loss_config.box.new_mean()
        # Geometry belongs to the config, from which it is rebuilt; it is not learned, so it is no part of the state.
        self.register_buffer("anchors", torch.tensor(anchor_pairs(anchors, self.strides, added_levels)),
                             persistent=False)
        self.m = self._convolutions(channels[:lead])
        self._add_parts(channels)

    def _add_parts(self, channels: list[int]) -> None:
        """Parameters of a subclass."""

    def _convolutions(self, channels: list[int]) -> nn.ModuleList:
        """One 1x1 per level; its biases expect eight objects in a 640 px image, and all classes equally often."""
        na, no = self.anchors.shape[1], self.num_classes + 5
        convs = nn.ModuleList(nn.Conv2d(c, na * no, 1) for c in channels)
        for conv, stride in zip(convs, self.strides, strict=True):
            bias = conv.bias.data.view(na, no)
            bias[:, 4] += log(8 / (640 / stride) ** 2)
            bias[:, 5:] += log(0.6 / (self.num_classes - self.prior_slack))
        return convs

    @property
    def per_cell(self) -> list[int]:
        return [self.anchors.shape[1]] * len(self.strides)

    def level(self, i: int, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, na*no, h, w)."""
        return self.m[i](x)

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> {"lead": logits (B, na, h, w, no) per level}."""
        return {"lead": tuple(self._apart(self.level(i, x)) for i, x in enumerate(pyramid))}

    def _apart(self, x: Tensor) -> Tensor:
        """(B, na*no, h, w) -> (B, na, h, w, no)."""
        na, no = self.anchors.shape[1], self.num_classes + 5
        # Sizes written out: through unflatten the ONNX exporter takes h and w for constants, even dynamic ones.
        return x.reshape(x.shape[0], na, no, *x.shape[2:]).permute(0, 1, 3, 4, 2)

    def loss(self, raw: Raw, targets: PackedTargets, all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms box, obj, cls, times the batch size; with `all_reduce` a part of the loss of all processes."""
        return anchor_head_loss(raw, self.anchors, self.strides, targets, self.loss_config, all_reduce,
                                self.mean_iou_loss)

    @property
    def assigner(self) -> str:
        return self.loss_config.assign

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """See `Head.assignment`; of the lead, where there are auxiliary levels."""
        return anchor_assignment(raw, self.anchors, self.strides, targets, self.loss_config)

    def scale_gains(self, gains: Mapping[str, float], image_size: int) -> dict[str, float]:
        """By `gain_rule`, for its levels and classes."""
        return scale_gains(gains, len(self.strides), self.num_classes, image_size, self.gain_rule)

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """From the rows of the last convolutions: anchors per cell, of the file or else of the config, times 5 + nc."""
        grid, table = anchor_grid(state), config.get("anchors")
        per_cell = grid.shape[1] if grid is not None else anchors_per_cell(table) if isinstance(table, list) else None
        rows = next((len(v) for k, v in reversed(state.items())
                     if re.search(AnchorDetect.signature, k) and v.dim() == 4), 0)
        return rows // per_cell - 5 if per_cell and rows % per_cell == 0 and rows // per_cell > 5 else None

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, nc), float32; N runs level, anchor, row, column.

        With one class the score is the objectness alone: the losses leave the only class untrained.
        """
        boxes, scores = [], []
        for level, anchors, stride in zip(raw.maps["lead"], self.anchors, self.strides, strict=True):
            level = level.float()
            boxes.append(decode_anchor(level, anchors, stride).flatten(1, 3))
            belief = level[..., 4:].sigmoid().flatten(1, 3)  # (B, na*h*w, 1+nc)
            scores.append(belief[..., :1] if self.num_classes == 1 else belief[..., :1] * belief[..., 1:])
        return cxcywh_to_xyxy(torch.cat(boxes, 1)), torch.cat(scores, 1)


class Implicit(nn.Module):
    """A learned constant per channel, (1, c, 1, 1) (YOLOR, Wang et al. 2021)."""

    def __init__(self, channels: int, mean: float) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.empty(1, channels, 1, 1))
        nn.init.normal_(self.implicit, mean, 0.02)


@register("IDetect", "ImplicitDetect", multi_input=True)
class ImplicitDetect(AnchorDetect):
    """Anchor head of YOLOR and YOLOv7: im * conv(ia + x) with learned per-channel ia and im."""

    gains = {"box": 0.05, "obj": 0.7, "cls": 0.3}
    assign_default = "ota"
    recipe = "yolov7"
    signature = r"\.ia\.\d\.implicit$"
    prior_slack = 0.99

    def _add_parts(self, channels: list[int]) -> None:
        self.ia = nn.ModuleList(Implicit(c, 0.0) for c in channels[:len(self.m)])
        self.im = nn.ModuleList(Implicit(conv.out_channels, 1.0) for conv in self.m)

    def level(self, i: int, x: Tensor) -> Tensor:
        return F.conv2d(x, *self._folded(i)) if len(self.ia) else self.m[i](x)

    def _folded(self, i: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals im * conv(ia + x); exact, and it saves two passes over
        the map."""
        conv, ia, im = self.m[i], self.ia[i].implicit, self.im[i].implicit.flatten()  # im (c2,)
        # Not a product of matrices, which autocast would round; in double, so that zero columns change no digit.
        bias = conv.bias + (conv.weight * ia).sum((1, 2, 3), dtype=torch.float64).to(conv.bias.dtype)
        return conv.weight * im[:, None, None, None], bias * im

    def fuse(self) -> None:
        """Fold the implicit constants into the convolutions."""
        if len(self.ia):
            with torch.no_grad():
                folded = [self._folded(i) for i in range(len(self.m))]
                self.m = nn.ModuleList(with_bias(c, *f) for c, f in zip(self.m, folded, strict=True))
            self.ia, self.im = nn.ModuleList(), nn.ModuleList()


@register("IAuxDetect", "AuxDetect", multi_input=True)
class AuxDetect(ImplicitDetect):
    """The head of YOLOv7's P6 models: beside each lead level an auxiliary one, which reads a map of its own, learns at
    a quarter of the weight from what the lead predicts, and is gone once fused.

    Inputs: the lead's levels, finest first, then the auxiliary ones in the same order.
    """

    recipe = "yolov7-p6"
    signature = r"\.m2\.\d\.weight$"
    heads = 2

    def _add_parts(self, channels: list[int]) -> None:
        self.m2 = self._convolutions(channels[len(self.m):])
        super()._add_parts(channels)

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """As its base, and {"aux": logits of the auxiliary levels} while there are any."""
        lead = super().forward(pyramid[:len(self.m)])
        aux = zip(self.m2, pyramid[len(self.m):], strict=True)
        return {**lead, "aux": tuple(self._apart(conv(x)) for conv, x in aux)} if len(self.m2) else lead

    def drop_auxiliary(self) -> int:
        """Take the auxiliary levels off. Returns how many inputs are still read."""
        self.m2 = nn.ModuleList()
        return len(self.m)
