"""Loss of the decoupled anchor-free head of YOLOv8: assignment of points, box similarity, DFL, class BCE.

Legend: B images, N anchor points of all levels, P positives (padded on a GPU), nc classes, bins DFL bins per side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.assignment import Assignment, of_points
from models.assign.by_name import POINT_ASSIGNERS, PointHead, choose_assigner
from models.assign.padded_indices import ignored_cells, padded_nonzero
from models.assign.task_aligned import PointAssignment, TalOptions
from models.boxes.decoding import anchor_points, dfl_expectation, distances_to_boxes
from models.boxes.similarity import full_precision, upcast
from models.losses.box_loss import BoxLoss, MeanIoULoss, loss_sums
from models.losses.checks import check_maps
from models.losses.normalisers import AllReduce, exchange
from utils.structures import PackedTargets, Raw


@dataclass(frozen=True)
class DFLLossConfig:
    """What is the same for every batch. Raises `UserError` for an unknown assign or box_loss.

    gains: weights of the terms box, cls, dfl; bins: of the distribution of each side; box_loss, box_options: name and
    options of a `BoxLoss`; assign: one of `POINT_ASSIGNERS`; tal: options of task-aligned assignment.
    """

    gains: Mapping[str, float]
    bins: int = 16
    box_loss: str = "ciou"
    assign: str = "tal"
    tal: TalOptions = TalOptions()
    box_options: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        choose_assigner(self.assign, POINT_ASSIGNERS)
        _ = self.box  # checked here

    @cached_property
    def box(self) -> BoxLoss:
        return BoxLoss(self.box_loss, self.box_options)


def dfl_head_loss(raw: Raw, strides: Sequence[int], targets: PackedTargets, config: DFLLossConfig,
                  all_reduce: AllReduce | None = None, mean: MeanIoULoss | None = None) -> dict[str, Tensor]:
    """Weighted loss terms {"box", "cls", "dfl"} of a batch, each already multiplied by the batch size.

    raw: maps "box" of (B, 4*bins, h, w) logits per level, and "cls" of (B, nc, h, w); all_reduce: sums a tensor over
    processes, for this batch's part of their common loss (`normalisers`); mean: of a box loss that has one, kept over
    batches (None: a new one). Computed in float32 (float64 stays). Crowd regions (`targets.ignore`) are excluded: a
    point inside one that learns no box has no loss. Raises `ValueError` where maps, strides and image size disagree.
    """
    cls_maps = raw.maps["cls"]
    shapes = _shapes(raw, strides)
    with full_precision(cls_maps[0].device):
        box_levels, cls_levels = _levels(raw)
        points, steps = anchor_points(shapes, strides, cls_maps[0].device, cls_levels[0].dtype)
        assigned, _ = _assigned(box_levels, cls_levels, (points, steps), strides, targets, config)
        logits, weight, box, label_logit, place = _positives(box_levels, cls_levels, assigned, targets)
        box_term, dfl_term, similarity = _box_terms(logits, box, points[place], steps[place], raw.image_size, config,
                                                    mean)
        sums = loss_sums(similarity, weight) if mean else weight[:0]
        # every term is per unit of target score
        (total,), images, sums = exchange(assigned.score.sum()[None], len(cls_maps[0]), sums, all_reduce)
        if mean:
            mean.update(sums)
        weights = _background_weights(assigned, targets, shapes, strides)  # (B, N)
        # BCE(x, t) = softplus(x) - x*t and t is zero but at the positives: no (B, N, nc) target is ever built
        every = torch.cat([F.softplus(m).sum(1) for m in cls_levels], 1)  # (B, N)
        cls_term = (every * weights).sum() - (label_logit * weight).sum()
        terms = {"box": (box_term * weight).sum(), "cls": cls_term, "dfl": (dfl_term * weight).sum()}
        return {name: term * (config.gains[name] * images) / total for name, term in terms.items()}


def dfl_assignment(raw: Raw, strides: Sequence[int], targets: PackedTargets, config: DFLLossConfig) -> Assignment:
    """The positives that `dfl_head_loss` of the same arguments learns from; their weight is the target score."""
    shapes = _shapes(raw, strides)
    with full_precision(raw.maps["cls"][0].device):
        box_levels, cls_levels = _levels(raw)
        points = anchor_points(shapes, strides, cls_levels[0].device, cls_levels[0].dtype)
        found, boxes = _assigned(box_levels, cls_levels, points, strides, targets, config)
    return of_points(found.box, [height * width for height, width in shapes], boxes, found.score)


def _shapes(raw: Raw, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of each level, checked."""
    shapes = [(m.shape[2], m.shape[3]) for m in raw.maps["cls"]]
    check_maps(shapes, strides, raw.image_size)
    return shapes


def _levels(raw: Raw) -> tuple[list[Tensor], list[Tensor]]:
    """Box logits (B, 4*bins, n) and class logits (B, nc, n) of each level."""
    return [m.flatten(2) for m in raw.maps["box"]], [upcast(m).flatten(2) for m in raw.maps["cls"]]


@torch.no_grad()
def _assigned(box_levels: Sequence[Tensor], cls_levels: Sequence[Tensor], grid: tuple[Tensor, Tensor],
              strides: Sequence[int], targets: PackedTargets, config: DFLLossConfig) -> tuple[PointAssignment, Tensor]:
    """The assignment and the predicted boxes (B, N, 4) px; grid: points and steps of `anchor_points`."""
    points, steps = grid
    distances = torch.cat([dfl_expectation(upcast(m).transpose(1, 2), config.bins) for m in box_levels], 1)
    boxes = distances_to_boxes(distances * steps, points)
    head = PointHead(boxes, [m.detach() for m in cls_levels], points, steps, strides)
    return POINT_ASSIGNERS[config.assign](head, targets, config.tal), boxes


def _positives(box_levels: Sequence[Tensor], cls_levels: Sequence[Tensor], assigned: PointAssignment,
               targets: PackedTargets) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Predictions and targets of the positives: box logits (P, 4*bins), weight (P,), true box (P, 4), logit of the true
    class (P,), index of the point among N (P,). Read level by level, so that the big maps are never joined."""
    start, parts = 0, []
    bound = targets.boxes.shape[1] * assigned.per_box
    for box_map, cls_map in zip(box_levels, cls_levels, strict=True):
        level = slice(start, start + cls_map.shape[-1])
        image, place, keep = padded_nonzero(assigned.box[:, level] >= 0, bound)
        row = assigned.box[:, level][image, place].clamp(min=0)
        weight = assigned.score[:, level][image, place] * keep
        parts.append((box_map[image, :, place], weight, targets.boxes[image, row],
                      cls_map[image, targets.labels[image, row], place], place + start))
        start = level.stop
    logits, weight, box, label_logit, place = (torch.cat(column) for column in zip(*parts, strict=True))
    return upcast(logits), weight, box.to(label_logit.dtype), label_logit, place


def _box_terms(logits: Tensor, box: Tensor, points: Tensor, steps: Tensor, image_size: tuple[int, int],
               config: DFLLossConfig, mean: MeanIoULoss | None) -> tuple[Tensor, Tensor, Tensor]:
    """Box loss (P,), DFL (P,) and similarity (P,), in stride units about each point.

    DFL (Li et al., Generalized Focal Loss, 2020, eq. 6): cross entropy against the two bins around the true distance.
    """
    bins = config.bins
    log_p = logits.unflatten(-1, (4, bins)).log_softmax(-1)  # (P, 4, bins)
    distance = log_p.exp() @ torch.arange(bins, device=logits.device, dtype=logits.dtype)  # (P, 4)
    truth = (box - points.repeat(1, 2)) / steps  # (P, 4) xyxy about the point
    origin = torch.zeros_like(points)
    box_term, similarity = config.box(distances_to_boxes(distance, origin), truth, steps[:, 0], image_size,
                                      mean and mean.value)
    target = torch.cat((-truth[:, :2], truth[:, 2:]), -1).clamp(0, bins - 1 - 0.01)  # (P, 4) l t r b
    low = target.floor()
    index = low.long()[..., None]  # (P, 4, 1)
    below, above = log_p.gather(-1, index)[..., 0], log_p.gather(-1, index + 1)[..., 0]
    dfl = -(below * (low + 1 - target) + above * (target - low)).mean(-1)
    return box_term, dfl, similarity


def _background_weights(assigned: PointAssignment, targets: PackedTargets, shapes: Sequence[tuple[int, int]],
                        strides: Sequence[int]) -> Tensor:
    """(B, N): 0 for points inside a crowd region that learn no box, 1 elsewhere."""
    ignored = torch.cat([ignored_cells(targets.boxes, targets.ignore, shape, stride).flatten(1)
                         for shape, stride in zip(shapes, strides, strict=True)], 1)
    return (~ignored | (assigned.box >= 0)).to(assigned.score.dtype)
