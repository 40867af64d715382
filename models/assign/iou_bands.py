"""Assignment by bands of IoU (Faster R-CNN, RetinaNet): from one bound on an anchor learns its object, below another it
is background, between them it learns nothing.

Legend: B images, N anchors of all levels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.prior_overlap import overlaps
from utils.structures import PackedTargets


class AnchorAssignment(NamedTuple):
    """All (B, N). box: the row of the object that an anchor overlaps most, 0 where there is none; positive: whether it
    learns that; learned: whether its classes are learned, as those of an object or as background."""

    box: Tensor
    positive: Tensor
    learned: Tensor


@torch.no_grad()
def assign_by_iou(anchors: Tensor, targets: PackedTargets, positive: float = 0.5,
                  negative: float = 0.4) -> AnchorAssignment:
    """anchors (N, 4) xyxy in input pixels. Positive are those with an IoU of `positive` or more with some object, and
    those that overlap some object as much as any anchor does, ties included, as Detectron and torchvision have it: each
    learns the object that it overlaps most, which may be another one. Background are those with an IoU below
    `negative` with all objects, unless more than half of them lies in a crowd region.
    """
    found = overlaps(anchors, targets)
    objects = (found.iou >= positive) | found.is_best
    background = (found.iou < negative) & ~found.crowded
    return AnchorAssignment(found.box, objects, objects | background)
