"""Loss of SSD's head (Liu et al. 2016, eq. 1 to 3, and "Hard negative mining"): smooth L1 of offsets from priors, cross
entropy of the positives and of the background that is predicted worst.

Legend: B images, P priors, C classes without the background, which is class 0 of C + 1 logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.padded_indices import sync_free
from models.assign.prior_match import match_priors
from models.boxes.deltas import encode_deltas
from models.boxes.similarity import full_precision, upcast
from models.losses.normalisers import AllReduce, normalisers
from utils.structures import PackedTargets

VARIANCES = 0.1, 0.2  # of offsets: centres in tenths of a prior's side, logarithms of sides in fifths


@dataclass(frozen=True)
class MultiboxConfig:
    """gains: weights of the terms loc, conf; match_iou: IoU from which a prior learns a box; neg_pos: background priors
    that are learned, to each positive of an image. Raises `ValueError` for numbers that mean nothing."""

    gains: Mapping[str, float]
    match_iou: float = 0.5
    neg_pos: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.match_iou <= 1:
            raise ValueError(f"match_iou {self.match_iou} is not an IoU above 0, at most 1")
        if self.neg_pos < 0:
            raise ValueError(f"neg_pos {self.neg_pos} is below 0")


def multibox_loss(offsets: Tensor, logits: Tensor, priors: Tensor, targets: PackedTargets, config: MultiboxConfig,
                  all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
    """Weighted terms {"loc", "conf"} of a batch, per positive prior of the whole batch, each times the batch size.

    offsets (B, P, 4): t_x, t_y, t_w, t_h; logits (B, P, C + 1); priors (P, 4) xyxy in the unit of the targets;
    all_reduce: sums a tensor over processes (`normalisers`). Computed in float32 (float64 stays). An image without
    boxes adds nothing; neither do priors in crowd regions (`match_priors`).
    """
    with full_precision(logits.device):
        offsets, logits = upcast(offsets), upcast(logits)
        match = match_priors(priors, targets, config.match_iou)
        positive = match.box >= 0  # (B, P)
        label = _of_boxes(targets.labels + 1, match.box).masked_fill(~positive, 0)  # (B, P)
        with torch.no_grad():
            cost = logits.logsumexp(-1) - logits.gather(-1, label[..., None])[..., 0]  # (B, P) cross entropy
            negative = hard_negatives(cost, positive, match.excluded, config.neg_pos)
        (count,), images = normalisers(positive.sum().to(logits.dtype)[None], len(logits), all_reduce)

        (rows, wanted), weight = _chosen((logits, label), positive | negative)
        conf = (F.cross_entropy(rows, wanted, reduction="none") * weight).sum()
        boxes = _of_boxes(targets.boxes.to(offsets.dtype), match.box)  # (B, P, 4)
        truth = encode_deltas(boxes, priors.to(offsets.dtype), VARIANCES)
        (rows, wanted), weight = _chosen((offsets, truth.masked_fill(~positive[..., None], 0)), positive)
        loc = (F.smooth_l1_loss(rows, wanted, reduction="none").sum(-1) * weight).sum()
    return {name: term * (config.gains[name] * images) / count for name, term in (("loc", loc), ("conf", conf))}


def hard_negatives(cost: Tensor, positive: Tensor, excluded: Tensor, neg_pos: float) -> Tensor:
    """The priors (B, P) whose background is worst predicted, `neg_pos` to each positive of the image, P - 1 at most.

    cost (B, P): their cross entropy against the background.
    """
    background = ~(positive | excluded)
    limit = (neg_pos * positive.sum(1, keepdim=True)).long().clamp(max=cost.shape[1] - 1)  # (B, 1)
    order = torch.where(background, cost, -1.0).argsort(dim=1, descending=True, stable=True)
    first = (torch.arange(cost.shape[1], device=cost.device) < limit).expand_as(order)
    return torch.zeros_like(positive).scatter_(1, order, first) & background


def _of_boxes(values: Tensor, box: Tensor) -> Tensor:
    """Values (B, M, ...) of the boxes (B, P), those of some box where there is none (-1); zeros without any box."""
    if values.shape[1] == 0:
        return values.new_zeros((*box.shape, *values.shape[2:]))
    image = torch.arange(len(box), device=box.device)[:, None]
    return values[image, box.clamp(min=0)]


def _chosen(arrays: tuple[Tensor, ...], mask: Tensor) -> tuple[list[Tensor], Tensor]:
    """The rows (R, ...) of (B, P, ...) arrays where (B, P) `mask` is True, and their weight (R,) 1. On a GPU, which
    would have to be asked how many these are, all rows, with weight 0 for the others."""
    if sync_free(mask.device):
        return [array[mask] for array in arrays], torch.ones((), device=mask.device)
    return [array.flatten(0, 1) for array in arrays], mask.flatten().float()
