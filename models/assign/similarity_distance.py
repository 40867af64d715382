"""Assignment by similarity distance (Shi et al., Similarity Distance-Based Label Assignment for Tiny Object Detection,
2024): which priors learn a box, by how far apart their centres and sides are for their size.

Legend: B images, M boxes of the fullest image (m of a part of them), N priors of all levels, k priors per box.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.assign.padded_indices import box_chunks
from models.assign.receptive_field import best_claimants
from utils.structures import PackedTargets


@dataclass(frozen=True)
class SimdOptions:
    """positive: similarity from which a prior learns a box, the paper's threshold; topk: priors that a box can have, a
    bound of ours; side: of the square prior of a point, in strides of its level, for heads without anchors."""

    positive: float = 0.7
    topk: int = 9
    side: float = 2.0


@torch.no_grad()
def assign_similarity_distance(priors: Tensor, targets: PackedTargets, options: SimdOptions | None = None,
                               reach: Tensor | None = None) -> Tensor:
    """The row of the box that each prior learns, -1 for background: (B, N) int64.

    priors (N, 4) xyxy px. A box claims its most similar prior, however little that is, and up to `topk` priors of at
    least `positive`; of several boxes that claim a prior the most similar gets it. reach (N,) px: only priors whose
    centre is nearer than this to the box's, on each axis, are its candidates. Memory as `assign_receptive_field`.
    """
    options = options or SimdOptions()
    (batch, boxes), places = targets.labels.shape, len(priors)
    if boxes == 0:
        return torch.full((batch, places), -1, dtype=torch.int64, device=priors.device)
    centre = (priors[:, :2] + priors[:, 2:]) / 2
    factors, k, asked = mean_ratios(priors, targets), min(options.topk, places), []
    for part in box_chunks(boxes, batch * places, priors.device):
        truth = targets.boxes[:, part].to(priors.dtype)
        similarity = similarity_distance(priors, truth, factors)  # (B, m, N)
        usable = targets.valid[:, part, None]
        if reach is not None:
            middle = ((truth[..., :2] + truth[..., 2:]) / 2)[..., None]  # (B, m, 2, 1)
            for own, other in zip(centre.T, middle.unbind(-2), strict=True):
                usable = usable & ((own - other).abs() < reach)
        asked.append(similarity.masked_fill_(~usable, -1.0).topk(k, -1))  # (B, m, k)
    values, indices = (torch.cat(parts, 1) for parts in zip(*asked, strict=True))
    first = torch.arange(k, device=priors.device) == 0
    claimed = (values >= options.positive) | (first & (values >= 0))
    return best_claimants(indices, torch.where(claimed, 1 - values, torch.inf), places)


def similarity_distance(priors: Tensor, boxes: Tensor, factors: Tensor) -> Tensor:
    """exp(-(location + shape)) of priors (N, 4) and boxes (B, m, 4), xyxy px -> (B, m, N) in (0, 1].

    location: length of (m |x - x'| / (w + w'), n |y - y'| / (h + h')); shape: that of (m |w - w'| / (w + w'),
    n |h - h'| / (h + h')). factors (2,): m, n.
    """
    location, shape = 0.0, 0.0
    for apart, differ, factor in zip(*_ratios(priors, boxes), factors, strict=True):
        location = location + (apart * factor).square_()
        shape = shape + (differ * factor).square_()
    return torch.exp(-(location.sqrt() + shape.sqrt()))


def mean_ratios(priors: Tensor, targets: PackedTargets) -> Tensor:
    """m, n (2,): the mean of |x - x'| / (w + w') and of |y - y'| / (h + h') over all pairs of a box and a prior of an
    image, which the similarity adapts to the data by. The paper takes the whole training set; here it is the batch, so
    that nothing has to be kept. 0 without boxes."""
    (batch, boxes), places, sums = targets.labels.shape, len(priors), priors.new_zeros(2)
    for part in box_chunks(boxes, batch * places, priors.device):
        apart, _ = _ratios(priors, targets.boxes[:, part].to(priors.dtype))
        sums = sums + torch.stack([(ratio * targets.valid[:, part, None]).sum() for ratio in apart])
    return sums / (targets.valid.sum() * places).clamp(min=1)


def _ratios(priors: Tensor, boxes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Per axis, distances of centres and differences of sides over the sum of both sides: (B, m, N) each."""
    apart, differ = [], []
    for axis in range(2):
        a1, a2 = priors[:, axis], priors[:, axis + 2]  # (N,)
        b1, b2 = boxes[..., axis, None], boxes[..., axis + 2, None]  # (B, m, 1)
        total = (a2 - a1) + (b2 - b1)
        apart.append(((a1 + a2) - (b1 + b2)).abs_() / 2 / total)
        differ.append(((a2 - a1) - (b2 - b1)).abs_() / total)
    return apart, differ
