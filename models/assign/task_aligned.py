"""Task-aligned assignment (Feng et al., TOOD, ICCV 2021, eq. 2 and section 3.2), with the rules of YOLOv8 8.1.

Legend: B images, M boxes of the fullest image, N anchor points of all levels, nc classes, k candidates per box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.padded_indices import box_chunks, resolve_claims
from models.boxes.similarity import box_similarity
from utils.structures import PackedTargets


@dataclass(frozen=True)
class TalOptions:
    """topk: points per box; metric = score^alpha * overlap^beta; min_side: pixels to which shorter sides of a box are
    enlarged when asking which points lie inside (0: never, as 8.1.47; the second stride: as 8.4)."""

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    min_side: float = 0.0


class PointAssignment(NamedTuple):
    """box (B, N) int64, the box assigned to each point, -1 for background; score (B, N), the target of its class;
    per_box: the most points that a box can have."""

    box: Tensor
    score: Tensor
    per_box: int


class _Claims(NamedTuple):
    """The candidates of each box, places, claimed (B, M, k), and the best box of each point with its overlap (B, N)."""

    places: Tensor
    claimed: Tensor
    overlaps: Tensor
    best_box: Tensor
    best_overlap: Tensor


@torch.no_grad()
def assign_task_aligned(boxes: Tensor, class_logits: Sequence[Tensor], points: Tensor, targets: PackedTargets,
                        options: TalOptions | None = None) -> PointAssignment:
    """Which point learns which box, and with what target score.

    boxes: (B, N, 4) predicted xyxy pixels. class_logits: (B, nc, n) per level, N in all, so that no map is copied.
    points: (N, 2) x, y in pixels. The k best points strictly inside a box are its own; a point claimed by several
    boxes goes to the one it overlaps most, of all boxes it lies inside. Memory: a few float32 temporaries of at most
    `padded_indices.PAIRS_*` elements (or B*N, if more), whatever M is, plus O(B * (N + M*k)).
    """
    options = options or TalOptions()
    batch, places = boxes.shape[:2]
    if targets.boxes.shape[1] == 0:
        background = torch.full((batch, places), -1, dtype=torch.int64, device=boxes.device)
        return PointAssignment(background, boxes.new_zeros(batch, places), options.topk)
    claims = _claims(boxes, class_logits, points, targets, options)
    box, contested = resolve_claims(claims.places, claims.claimed, claims.best_box, places)
    overlap = torch.zeros_like(claims.best_overlap).scatter_reduce_(
        1, claims.places.flatten(1), (claims.overlaps * claims.claimed).flatten(1), "amax")
    overlap = torch.where(contested, claims.best_overlap, overlap)
    score = _target_scores(box, overlap, class_logits, targets, options)
    return PointAssignment(box, score, options.topk)


def _claims(boxes: Tensor, class_logits: Sequence[Tensor], points: Tensor, targets: PackedTargets,
            options: TalOptions) -> _Claims:
    batch, places = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device)[:, None]  # (B, 1)
    k = min(options.topk, places)
    best_overlap = boxes.new_full((batch, places), -1.0)
    best_box = torch.zeros(batch, places, dtype=torch.int64, device=boxes.device)
    asked = []
    for part in box_chunks(targets.boxes.shape[1], batch * places, boxes.device):
        truth = targets.boxes[:, part].to(boxes.dtype)  # (B, m, 4)
        inside = _inside(points, truth, options.min_side) & targets.valid[:, part, None]  # (B, m, N)
        overlap = box_similarity(truth[:, :, None], boxes[:, None]).clamp_(min=0)  # (B, m, N)
        labels = targets.labels[:, part]
        score = torch.cat([level[image, labels] for level in class_logits], -1).to(boxes.dtype).sigmoid_()  # (B, m, N)
        metric = _metric(score, overlap, options).masked_fill_(~inside, 0.0)
        values, indices = metric.topk(k, -1)  # (B, m, k)
        asked.append((indices, values > 0, overlap.gather(-1, indices)))  # a zero metric has no weight
        value, index = overlap.masked_fill_(~inside, -1.0).max(1)  # (B, N)
        better = value > best_overlap  # strictly: the first of equals wins, however the boxes are cut into chunks
        best_overlap = torch.where(better, value, best_overlap)
        best_box = torch.where(better, index + part.start, best_box)
    return _Claims(*(torch.cat(parts, 1) for parts in zip(*asked, strict=True)), best_box, best_overlap)


def _inside(points: Tensor, boxes: Tensor, min_side: float) -> Tensor:
    """(N, 2), (B, m, 4) -> (B, m, N): points strictly inside."""
    low, high = boxes[..., :2], boxes[..., 2:]
    if min_side:
        centre, side = (low + high) / 2, high - low
        small = side < min_side
        low = torch.where(small, centre - min_side / 2, low)
        high = torch.where(small, centre + min_side / 2, high)
    x, y = points.T.contiguous()
    x1, y1 = low.unsqueeze(-1).unbind(-2)  # (B, m, 1)
    x2, y2 = high.unsqueeze(-1).unbind(-2)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def _metric(score: Tensor, overlap: Tensor, options: TalOptions) -> Tensor:
    return score**options.alpha * overlap**options.beta


def _target_scores(box: Tensor, overlap: Tensor, class_logits: Sequence[Tensor], targets: PackedTargets,
                   options: TalOptions) -> Tensor:
    """TOOD's normalised metric: the best point of a box has its best overlap as target."""
    found = box >= 0
    row = box.clamp(min=0)  # (B, N)
    label = targets.labels.gather(1, row)[:, None]  # (B, 1, N)
    sizes = [level.shape[-1] for level in class_logits]
    labels = label.split(sizes, -1)
    logit = torch.cat([level.gather(1, part) for level, part in zip(class_logits, labels, strict=True)], -1)
    metric = _metric(logit[:, 0].to(overlap.dtype).sigmoid(), overlap, options) * found
    overlap = overlap * found
    best = overlap.new_zeros(targets.labels.shape)  # (B, M)
    best_metric = best.scatter_reduce(1, row, metric, "amax").gather(1, row)
    best_overlap = best.scatter_reduce(1, row, overlap, "amax").gather(1, row)
    return metric * best_overlap / (best_metric + 1e-9)
