"""Loss of RetinaNet (Lin et al., Focal Loss for Dense Object Detection, 2017): focal loss of classes, smooth L1 of
offsets, both per positive anchor.

Legend: B images, a anchors of a cell, n cells of a level, N anchors of all levels, C classes, M boxes of an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.assign.iou_bands import assign_by_iou
from models.boxes.deltas import encode_deltas
from models.boxes.similarity import full_precision, upcast
from models.losses.normalisers import AllReduce, normalisers
from utils.structures import PackedTargets, Raw


@dataclass(frozen=True)
class FocalLossConfig:
    """gains: weights of the terms cls, box; positive, negative: bounds of IoU of the assignment; alpha, gamma: of the
    focal loss; beta: below which smooth L1 is quadratic, 0 for plain L1. Raises `ValueError` for bounds out of order.
    """

    gains: Mapping[str, float]
    positive: float = 0.5
    negative: float = 0.4
    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 1 / 9

    def __post_init__(self) -> None:
        if not 0 < self.negative <= self.positive <= 1:
            raise ValueError(f"anchors are positive from an IoU of {self.positive:g} on and negative below "
                             f"{self.negative:g}; it must be 0 < negative <= positive <= 1")
        if not (0 <= self.alpha <= 1 and self.gamma >= 0 and self.beta >= 0):
            raise ValueError(f"alpha {self.alpha:g} must lie in [0, 1], gamma {self.gamma:g} and beta {self.beta:g} be "
                             "0 or more")


def retina_loss(raw: Raw, anchors: Tensor, targets: PackedTargets, config: FocalLossConfig,
                all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
    """Weighted loss terms {"cls", "box"} of a batch, each already multiplied by the batch size.

    raw: maps "cls" (B, a*C, h, w) of logits and "box" (B, a*4, h, w) of offsets, anchor by anchor; anchors (N, 4) xyxy,
    by level, row, column, anchor. Both terms are sums over anchors, divided by the positive ones of all images (1 at
    least), as in Detectron; torchvision divides image by image. With `all_reduce` they are this process's part of the
    loss of all processes. Every tensor has the shape of the maps of an image at most, whatever the number of boxes, and
    the host waits for nothing. Computed in float32 (float64 stays).
    """
    cls_maps, box_maps = raw.maps["cls"], raw.maps["box"]
    with full_precision(cls_maps[0].device):
        found = assign_by_iou(anchors, targets, config.positive, config.negative)
        boxes, labels = _with_a_row(targets)
        label = labels.gather(1, found.box)  # (B, N)
        truth = boxes.gather(1, found.box[..., None].expand(-1, -1, 4))  # (B, N, 4)
        offsets = encode_deltas(truth, anchors)  # (B, N, 4)
        (total,), images = normalisers(found.positive.sum()[None].to(offsets.dtype), len(cls_maps[0]), all_reduce)
        cls_terms, box_terms, start = [], [], 0
        for cls_map, box_map in zip(cls_maps, box_maps, strict=True):
            per_cell = box_map.shape[1] // 4
            level = slice(start, start + per_cell * box_map.shape[2] * box_map.shape[3])
            positive, learned, classes, wanted = (
                t[:, level].unflatten(1, (-1, per_cell)).transpose(1, 2)  # (B, a, n), the last (B, a, n, 4)
                for t in (found.positive, found.learned, label, offsets))
            logits = cls_map.flatten(2).unflatten(1, (per_cell, -1))  # (B, a, C, n)
            cls_terms.append(_class_term(logits, classes, positive, learned, config))
            guess = upcast(box_map).flatten(2).unflatten(1, (per_cell, 4)).transpose(2, 3)  # (B, a, n, 4)
            distance = F.smooth_l1_loss(guess, wanted.to(guess.dtype), reduction="none", beta=config.beta).sum(-1)
            box_terms.append(torch.where(positive, distance, 0).sum())
            start = level.stop
        terms = {"cls": torch.stack(cls_terms).sum(), "box": torch.stack(box_terms).sum()}
        return {name: term * (config.gains[name] * images) / total for name, term in terms.items()}


def _with_a_row(targets: PackedTargets) -> tuple[Tensor, Tensor]:
    """Boxes (B, M, 4) and labels (B, M) with a row to read, of zeros, where no image has a box."""
    boxes, labels = targets.boxes, targets.labels
    if labels.shape[1]:
        return boxes, labels
    return boxes.new_zeros(len(boxes), 1, 4), labels.new_zeros(len(labels), 1)


def _class_term(logits: Tensor, classes: Tensor, positive: Tensor, learned: Tensor, config: FocalLossConfig) -> Tensor:
    """Sum of the focal loss (eq. 5) of a level. logits (B, a, C, n); classes, positive, learned (B, a, n).

    Nearly all targets are 0: all logits are taken as such, and the few of positive classes are corrected.
    """
    own = upcast(logits.gather(2, classes[:, :, None])[:, :, 0])  # (B, a, n)
    present = config.alpha * own.neg().sigmoid().pow(config.gamma) * F.softplus(-own)
    correction = torch.where(positive, present - _absent(own, config.alpha, config.gamma), 0).sum()
    return _SumAbsent.apply(logits, learned, config.alpha, config.gamma) + correction


class _SumAbsent(torch.autograd.Function):
    """Sum of the focal loss of a level whose targets are all 0. The derivative is written out, so that nothing of the
    size of the logits is kept beside them: autograd would keep six such tensors."""

    @staticmethod
    def forward(ctx, logits: Tensor, learned: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, learned)
        ctx.constants = alpha, gamma
        return torch.where(learned, _absent(upcast(logits), alpha, gamma).sum(2), 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """d/dx of (1 - alpha) p^gamma softplus(x) is (1 - alpha) p^gamma (gamma (1 - p) softplus(x) + p)."""
        (logits, learned), (alpha, gamma) = ctx.saved_tensors, ctx.constants
        x = upcast(logits)
        p = x.sigmoid()
        slope = F.softplus(x).mul_(1 - p).mul_(gamma).add_(p).mul_(p.pow_(gamma)).mul_(grad * (1 - alpha))
        return slope.masked_fill_(~learned[:, :, None], 0).to(logits.dtype), None, None, None


def _absent(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """The focal loss for a class that is not there: (1 - alpha) p^gamma (-ln(1 - p))."""
    return (1 - alpha) * logits.sigmoid().pow(gamma) * F.softplus(logits)
