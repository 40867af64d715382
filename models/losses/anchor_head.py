"""Loss of the anchor heads of YOLOv3, v5 and v7: assignment, box similarity, objectness and class BCE.

Legend: B images, M boxes of the fullest image, na anchors per cell, P positives of a level (padded on a GPU), nc
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.anchor_match import Positives, cell_corner, decode_relative, take, unravel
from models.assign.assignment import Assignment
from models.assign.by_name import ANCHOR_ASSIGNERS, AnchorHead, choose_assigner
from models.assign.padded_indices import ignored_cells
from models.boxes.similarity import full_precision, upcast
from models.losses.box_loss import BoxLoss, MeanIoULoss, loss_sums
from models.losses.checks import check_maps
from models.losses.normalisers import AllReduce, exchange
from utils.structures import PackedTargets, Raw

REACH, REACH_AUX = 0.5, 1.0  # cells from a centre to the neighbours that learn it too
AUX_WEIGHT = 0.25  # of every term of an auxiliary head
TOP_SINGLE, TOP_AUX = 10, 20  # candidates that OTA's dynamic k counts, without and with auxiliary heads


@dataclass(frozen=True)
class AnchorLossConfig:
    """What is the same for every batch. Raises `UserError` for an unknown assign or box_loss.

    gains: weights of the terms box, obj, cls; assign: one of `ANCHOR_ASSIGNERS`: "anchor" (every match is a positive),
    "ota" (YOLOv7's choice among them), ...; box_loss, box_options: name and options of a `BoxLoss`; balance: weight of
    each level's objectness (default 4, 1, .4 for three levels, else 4, 1, .25, .06, .02); label_smoothing: of the class
    targets; focal_gamma: of the class and objectness terms; anchor_t: by how much a side of an anchor may differ from a
    box's; cls_pw, obj_pw: weights of positive targets.
    """

    gains: Mapping[str, float]
    assign: str = "anchor"
    box_loss: str = "ciou"
    balance: Sequence[float] | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    anchor_t: float = 4.0
    cls_pw: float = 1.0
    obj_pw: float = 1.0
    box_options: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        choose_assigner(self.assign, ANCHOR_ASSIGNERS)
        _ = self.box  # checked here

    @cached_property
    def box(self) -> BoxLoss:
        return BoxLoss(self.box_loss, self.box_options)

    def level_balance(self, levels: int) -> Sequence[float]:
        return self.balance or ((4.0, 1.0, 0.4) if levels == 3 else (4.0, 1.0, 0.25, 0.06, 0.02)[:levels])


class _Level(NamedTuple):
    """One level of a head: its map (B, na, h, w, 5+nc), anchors (na, 2) and stride in pixels, the cells (B, h, w)
    outside crowd regions, and height and width of the images."""

    logits: Tensor
    anchors: Tensor
    stride: int
    outside: Tensor
    image_size: tuple[int, int]


class _Terms(NamedTuple):
    """Of one level: sums over its positives of the box and the class loss, the mean of the objectness loss, and what
    `mean` is updated with (2,), where there is one."""

    box: Tensor
    objectness: Tensor
    classes: Tensor
    losses: Tensor


class _Split(torch.autograd.Function):
    """(B, na, h, w, D) map -> all objectness logits (B, na, h, w) and the rows of the positives (P, D).

    Written out because autograd would fill two gradients of the map's size and add them, though a hundredth of the map
    is read: batch 16 at 640 px with 80 classes took 90 ms on 2 CPU cores, and takes 35 ms.
    """

    @staticmethod
    def forward(ctx, level_map: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*index)
        ctx.form = torch.empty_like(level_map, device="meta")  # shape and strides without holding on to the map
        return level_map[..., 4].clone(), level_map[index]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, objectness: Tensor, rows: Tensor) -> tuple[Tensor | None, ...]:
        grad = torch.zeros_like(ctx.form, device=rows.device)
        grad[..., 4] = objectness
        return grad.index_put_(ctx.saved_tensors, rows, accumulate=True), None, None, None, None


def anchor_head_loss(raw: Raw, anchors: Tensor, strides: Sequence[int], targets: PackedTargets,
                     config: AnchorLossConfig, all_reduce: AllReduce | None = None,
                     mean: MeanIoULoss | None = None) -> dict[str, Tensor]:
    """Weighted loss terms {"box", "obj", "cls"} of a batch, each already multiplied by the batch size.

    raw: maps "lead" of (B, na, h, w, 5+nc) logits per level, in any memory layout, and "aux", where there are auxiliary
    heads, which learn from five cells per anchor at a quarter of the weight, chosen by what the lead predicts; anchors:
    (L, na, 2) pixels; all_reduce: sums a tensor over processes, for this batch's part of their common loss
    (`normalisers`); mean: of a box loss that has one, kept over batches (None: a new one). Means are per level. With
    one class there is no class loss. Computed in float32 (float64 stays). Crowd regions (`targets.ignore`) are
    excluded: an anchor whose cell's centre lies inside one and that has no box has no loss. Raises `ValueError` where
    maps, strides and image size disagree.
    """
    maps = raw.maps["lead"]
    shapes = [(m.shape[2], m.shape[3]) for m in maps]
    check_maps(shapes, strides, raw.image_size)
    with full_precision(maps[0].device):
        heads = [(maps, REACH, 1.0)] + ([(raw.maps["aux"], REACH_AUX, AUX_WEIGHT)] if "aux" in raw.maps else [])
        outside = [~ignored_cells(targets.boxes, targets.ignore, shape, stride)
                   for shape, stride in zip(shapes, strides, strict=True)]  # (B, h, w) per level
        zero = upcast(maps[0]).new_zeros(())
        positives = []  # of each level of each head
        for _, reach, _ in heads:
            positives += _assigned(raw, anchors, strides, targets, config, reach)
        kept = torch.stack([p.keep.sum() for p in positives]).to(zero.dtype)
        levels = [_Level(*level, raw.image_size) for head, _, _ in heads
                  for level in zip(head, anchors, strides, outside, strict=True)]
        found = [_level_terms(level, own, targets, config, mean) for level, own in zip(levels, positives, strict=True)]
        losses = torch.stack([level.losses for level in found]).sum(0)
        counts, images, losses = exchange(kept, len(maps[0]), losses, all_reduce)
        if mean:
            mean.update(losses)
        sums, classes = [zero] * 3, maps[0].shape[-1] - 5
        weights = [(weight, balance) for _, _, weight in heads for balance in config.level_balance(len(maps))]
        for level, count, (weight, balance) in zip(found, counts, weights, strict=True):
            terms = level.box / count, level.objectness, level.classes / (count * classes)
            factors = weight, weight * balance, weight
            sums = [total + term * factor for total, term, factor in zip(sums, terms, factors, strict=True)]
    scale = {"box": images, "obj": len(maps[0]), "cls": images}  # the mean of objectness is over this batch alone
    return {name: total * (config.gains[name] * n) for (name, n), total in zip(scale.items(), sums, strict=True)}


def anchor_assignment(raw: Raw, anchors: Tensor, strides: Sequence[int], targets: PackedTargets,
                      config: AnchorLossConfig) -> Assignment:
    """The positives that the lead learns from in `anchor_head_loss` of the same arguments. prior: the anchor about the
    centre of its cell. Several objects may have the same anchor of a cell."""
    maps, parts = raw.maps["lead"], []
    check_maps([(m.shape[2], m.shape[3]) for m in maps], strides, raw.image_size)
    with torch.no_grad(), full_precision(maps[0].device):
        found = _assigned(raw, anchors, strides, targets, config, REACH)
        for number, (positives, level, own, stride) in enumerate(zip(found, maps, anchors, strides, strict=True)):
            image, place, box = (part[positives.keep] for part in positives[:3])
            logits, shape = upcast(take(level, image, place)), level.shape[2:4]
            corner = cell_corner(place, shape)
            guess, prior = ((decode_relative(x, place, own, stride, shape) + corner) * stride
                            for x in (logits, torch.zeros_like(logits)))
            parts.append(Assignment(image, box, torch.full_like(box, number), torch.ones_like(guess[:, 0]), guess,
                                    prior))
    return Assignment.join(parts)


def _assigned(raw: Raw, anchors: Tensor, strides: Sequence[int], targets: PackedTargets, config: AnchorLossConfig,
              reach: float) -> list[Positives]:
    """The positives of each level of a head that looks as far as `reach`, chosen by what the lead predicts."""
    top = TOP_AUX if "aux" in raw.maps else TOP_SINGLE
    head = AnchorHead(raw.maps["lead"], anchors, strides, config.anchor_t, reach, top)
    return ANCHOR_ASSIGNERS[config.assign](head, targets)


def _level_terms(level: _Level, positives: Positives, targets: PackedTargets, config: AnchorLossConfig,
                 mean: MeanIoULoss | None) -> _Terms:
    image, place, box, keep = positives
    shape = level.logits.shape[2:4]
    objectness, rows = _Split.apply(level.logits, *unravel(level.logits, image, place))
    logits = upcast(rows)  # (P, 5+nc)
    keep = keep.to(logits.dtype)
    truth = targets.boxes[image, box].to(logits.dtype) / level.stride - cell_corner(place, shape)  # (P, 4) in cells
    predicted = decode_relative(logits, place, level.anchors, level.stride, shape)
    box_loss, similarity = config.box(predicted, truth, level.stride, level.image_size, mean and mean.value)  # (P,)
    box_term = (box_loss * keep).sum()
    losses = loss_sums(similarity, keep) if mean else keep.new_zeros(0)

    # Where boxes share an anchor of a cell the best of them counts, in whatever order they come.
    places = level.logits.shape[1] * shape[0] * shape[1]
    target = logits.new_full((len(level.logits) * places,), -1.0)
    seen = torch.where(keep > 0, similarity.detach().clamp(min=0), -1.0)
    target = target.scatter_reduce(0, image * places + place, seen, "amax").view(level.logits.shape[:4])
    weight = (level.outside[:, None] | (target >= 0)).to(logits.dtype)
    obj_term = (_bce(upcast(objectness), target.clamp(min=0), config.focal_gamma, config.obj_pw) * weight).mean()

    classes = logits.shape[1] - 5
    if classes == 1:
        return _Terms(box_term, obj_term, logits.new_zeros(()), losses)
    label = targets.labels[image, box][:, None]
    smooth = 1 - config.label_smoothing / 2, config.label_smoothing / 2
    onehot = torch.where(torch.arange(classes, device=label.device) == label, *smooth).to(logits.dtype)  # (P, nc)
    cls_loss = _bce(logits[:, 5:], onehot, config.focal_gamma, config.cls_pw)
    return _Terms(box_term, obj_term, (cls_loss * keep[:, None]).sum(), losses)


def _bce(logits: Tensor, target: Tensor, gamma: float, positive: float) -> Tensor:
    """Binary cross entropy by element, its positive part times `positive`; with gamma > 0 the focal form with alpha
    0.25 (Lin et al. 2017, eq. 5)."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if positive != 1:
        loss = loss + (positive - 1) * target * F.softplus(-logits)
    if gamma == 0:
        return loss
    p = logits.sigmoid()
    error = 1 - (target * p + (1 - target) * (1 - p))
    return loss * (target * 0.25 + (1 - target) * 0.75) * error**gamma
