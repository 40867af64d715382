"""The anchor-free head of YOLOv8: decoupled branches, boxes as distributions over distances to the four sides.

Legend: B images, h, w cells of a level, nc classes, bins DFL bins per side, N = sum of h*w over levels.
"""

import re
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from models.assign.assignment import Assignment
from models.boxes.decoding import anchor_points, dfl_expectation, distances_to_boxes
from models.heads.base import Head, merge_gains
from models.heads.box_options import BOX_OPTIONS, options_in_use
from models.layers.conv import Conv, DWConv
from models.losses import AllReduce, DFLLossConfig, dfl_head_loss
from models.losses.dfl_head import dfl_assignment
from models.registry import choose, register
from utils.structures import PackedTargets, Raw


class Expectation(nn.Module):
    """The constant bin values 0..bins-1, kept as the frozen 1x1 convolution that YOLOv8 checkpoints hold."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(bins, dtype=torch.float32).reshape(1, bins, 1, 1))


# Registered behind the anchor head, which YOLOv3/v5/v7 files also call Detect, with anchors as second argument.
@register("Detect", "DFLDetect", multi_input=True)
class DFLDetect(Head):
    """YOLOv8 head; learns by task-aligned assignment (TOOD, Feng et al. 2021), unless another is chosen, and DFL
    (Li et al. 2020).

    channels, strides: of the levels read. assign: another assigner for points (`models.assign.by_name`). box_loss,
    box_options: name and options of a `models.losses.box_loss.BoxLoss`. gains: weights of the terms box, cls, dfl.
    class_branch: "conv", two 3x3 convolutions, or "depthwise", a depthwise 3x3 and a 1x1 in place of each, as
    Ultralytics 8.3.0 to 8.3.15 built YOLOv8. The branches of all levels have the width that follows from the finest
    level of the base; those of the `added_levels` before it, from their own.
    """

    gains = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    recipe = "yolov8"
    recipe_options = BOX_OPTIONS
    signature = r"\.cv3\.\d\.2\.weight$"  # the last convolutions of the class branch
    level_parts = ("cv2", "cv3")

    def __init__(self, channels: list[int], nc: int = 80, bins: int = 16, *, strides: list[int], box_loss: str = "ciou",
                 assign: str = "tal", gains: dict[str, float] | None = None, class_branch: str = "conv",
                 added_levels: int = 0, box_options: dict[str, float] | None = None) -> None:
        super().__init__()
        self.num_classes, self.bins, self.strides = nc, bins, list(strides)
        self.gains = merge_gains(self.gains, gains)
        self.loss_config = DFLLossConfig(self.gains, bins, box_loss, assign, box_options=box_options)
        self.recipe_options = options_in_use(self.recipe_options, self.loss_config.box)
        self.mean_iou_loss = self.loss_config.box.new_mean()
        first = [channels[min(i, added_levels)] for i in range(len(channels))]  # what sets the width of each level
        self.cv2 = nn.ModuleList(self._branch(c, max(16, f // 4, 4 * bins), 4 * bins)
                                 for c, f in zip(channels, first, strict=True))
        class_branch = choose("class_branch", class_branch, ("conv", "depthwise"))
        branch = self._depthwise_branch if class_branch == "depthwise" else self._branch
        self.cv3 = nn.ModuleList(branch(c, max(f, min(nc, 100)), nc) for c, f in zip(channels, first, strict=True))
        self.dfl = Expectation(bins)
        self._init_bias()

    @staticmethod
    def _branch(c1: int, hidden: int, c2: int) -> nn.Sequential:
        return nn.Sequential(Conv(c1, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, c2, 1))

    @staticmethod
    def _depthwise_branch(c1: int, hidden: int, c2: int) -> nn.Sequential:
        return nn.Sequential(nn.Sequential(DWConv(c1, c1, 3), Conv(c1, hidden)),
                             nn.Sequential(DWConv(hidden, hidden, 3), Conv(hidden, hidden)),
                             nn.Conv2d(hidden, c2, 1))

    def _init_bias(self) -> None:
        """Box logits lean to no bin; class priors expect five objects in a 640 px image."""
        for box, cls, stride in zip(self.cv2, self.cv3, self.strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)
            nn.init.constant_(cls[-1].bias, log(5 / self.num_classes / (640 / stride) ** 2))

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> box logits (B, 4*bins, h, w), side by side l t r b, and class logits (B, nc, h, w)."""
        return {"box": tuple(branch(x) for branch, x in zip(self.cv2, pyramid, strict=True)),
                "cls": tuple(branch(x) for branch, x in zip(self.cv3, pyramid, strict=True))}

    def loss(self, raw: Raw, targets: PackedTargets, all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms box, cls, dfl, times the batch size; with `all_reduce` a part of the loss of all processes."""
        return dfl_head_loss(raw, self.strides, targets, self.loss_config, all_reduce, self.mean_iou_loss)

    @property
    def assigner(self) -> str:
        return self.loss_config.assign

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """See `Head.assignment`; weights are the target scores."""
        return dfl_assignment(raw, self.strides, targets, self.loss_config)

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """From the rows of the class branch."""
        return next((len(v) for k, v in reversed(state.items()) if re.search(DFLDetect.signature, k)), None)

    @classmethod
    def state_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """`class_branch`, which no model file states."""
        first = next((v for k, v in state.items() if k.endswith(".cv3.0.0.0.conv.weight")), None)
        return {} if first is None or first.shape[1:2] != (1,) else {"class_branch": "depthwise"}

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, nc), float32; N runs level, row, column."""
        box = _flatten(raw.maps["box"])  # (B, N, 4*bins)
        points, steps = anchor_points([m.shape[2:] for m in raw.maps["box"]], self.strides, box.device)
        boxes = distances_to_boxes(dfl_expectation(box, self.bins) * steps, points)
        return boxes, _flatten(raw.maps["cls"]).sigmoid()


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, c, h, w) of all levels -> (B, N, c) in float32, whatever the precision they were computed in."""
    return torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2).float()
