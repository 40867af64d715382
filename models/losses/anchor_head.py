"""Loss of the anchor heads of YOLOv3, v5 and v7: matching or OTA, box similarity, objectness and class BCE.

Legend: B images, M boxes of the fullest image, na anchors per cell, P positives of a level (padded on a GPU), nc
classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.anchor_match import Positives, all_matches, cell_corner, decode_relative, match_anchors, unravel
from models.assign.ota import assign_ota
from models.assign.slots import ignored_cells
from models.boxes.similarity import box_similarity, full_precision, upcast
from models.losses.checks import check_maps
from models.losses.normalisers import Share, normalisers
from models.registry import choose
from utils.structures import PackedTargets

# (maps, matches, anchors, strides, targets, top=) -> the positives of each level, from the candidates `matches`
ASSIGNERS: dict[str, Callable[..., list[Positives]]] = {
    "anchor": lambda maps, matches, *_, **__: all_matches(matches), "ota": assign_ota}
AUX_WEIGHT = 0.25  # of every term of an auxiliary head
TOP_SINGLE, TOP_AUX = 10, 20  # candidates that OTA's dynamic k counts, without and with auxiliary heads


@dataclass(frozen=True)
class _Rules:
    """What stays the same over levels. smooth: (positive, negative) class targets; *_pw: weight of positives."""

    kind: str
    smooth: tuple[float, float]
    focal_gamma: float
    cls_pw: float
    obj_pw: float


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


def anchor_head_loss(maps: Sequence[Tensor], anchors: Tensor, strides: Sequence[int], targets: PackedTargets,
                     image_size: tuple[int, int], *, gains: Mapping[str, float], assign: str = "anchor",
                     box_loss: str = "ciou", balance: Sequence[float] | None = None, label_smoothing: float = 0.0,
                     focal_gamma: float = 0.0, anchor_t: float = 4.0, cls_pw: float = 1.0, obj_pw: float = 1.0,
                     aux_maps: Sequence[Tensor] | None = None, share: Share | None = None) -> dict[str, Tensor]:
    """Weighted loss terms {"box", "obj", "cls"} of a batch, each already multiplied by the batch size.

    maps: (B, na, h, w, 5+nc) logits per level, in any memory layout; anchors: (L, na, 2) pixels; image_size: (H, W)
    pixels; gains: one weight per term; assign: "anchor" (every match learns) or "ota" (YOLOv7's choice among them);
    balance: weight of each level's objectness (default 4, 1, .4 for three levels, else 4, 1, .25, .06, .02); anchor_t:
    by how much a side of an anchor may differ from a box's; cls_pw, obj_pw: weight of positive targets; aux_maps:
    maps of auxiliary heads, which learn from five cells per anchor at a quarter of the weight, chosen by what the lead
    predicts; share: adds a tensor up over processes, for this batch's part of their common loss (`normalisers`). Means
    are per level. With one class there is no class loss. Computed in float32 (float64 stays).
    Crowd regions (`targets.ignore`) teach nothing: an anchor whose cell's centre lies inside one and that has no box
    has no loss. Raises `UserError` for an unknown assign or box_loss, `ValueError` where maps, strides and image_size
    disagree.
    """
    check_maps([m.shape[:4] for m in maps], strides, image_size, box_loss)
    choose("assign", assign, ASSIGNERS)
    rules = _Rules(box_loss, (1 - label_smoothing / 2, label_smoothing / 2), focal_gamma, cls_pw, obj_pw)
    with full_precision(maps[0].device):
        top = TOP_AUX if aux_maps else TOP_SINGLE
        heads = [(maps, 0.5, 1.0)] + ([(aux_maps, 1.0, AUX_WEIGHT)] if aux_maps else [])
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        taught = [~ignored_cells(targets.boxes, targets.ignore, shape, stride)
                  for shape, stride in zip(shapes, strides, strict=True)]  # (B, h, w) per level
        zero = upcast(maps[0]).new_zeros(())
        positives = []  # of each level of each head
        for _, reach, _ in heads:
            matches = match_anchors(targets, anchors, strides, shapes, ratio=anchor_t, reach=reach)
            positives += ASSIGNERS[assign](maps, matches, anchors, strides, targets, top=top)
        counts, images = normalisers(torch.stack([p.keep.sum() for p in positives]).to(zero.dtype), len(maps[0]), share)
        sums, learners = [zero] * 3, zip(positives, counts, strict=True)
        for head, _, weight in heads:
            for i, level in enumerate(head):
                terms = _level_terms(level, *next(learners), anchors[i], strides[i], targets, taught[i], rules)
                factors = weight, weight * _balance(balance, len(maps))[i], weight
                sums = [total + term * factor for total, term, factor in zip(sums, terms, factors, strict=True)]
    scale = {"box": images, "obj": len(maps[0]), "cls": images}  # the mean of objectness is over this batch alone
    return {name: total * (gains[name] * n) for (name, n), total in zip(scale.items(), sums, strict=True)}


def _balance(balance: Sequence[float] | None, levels: int) -> Sequence[float]:
    return balance or ((4.0, 1.0, 0.4) if levels == 3 else (4.0, 1.0, 0.25, 0.06, 0.02)[:levels])


def _level_terms(level: Tensor, positives: Positives, count: Tensor, anchors: Tensor, stride: int,
                 targets: PackedTargets, taught: Tensor, rules: _Rules) -> tuple[Tensor, Tensor, Tensor]:
    """Box, objectness and class means of one (B, na, h, w, 5+nc) map; those of the positives are over `count`."""
    image, place, box, keep = positives
    shape = level.shape[2:4]
    objectness, rows = _Split.apply(level, *unravel(level, image, place))
    logits = upcast(rows)  # (P, 5+nc)
    keep = keep.to(logits.dtype)
    truth = targets.boxes[image, box].to(logits.dtype) / stride - cell_corner(place, shape)  # (P, 4) in cells
    similarity = box_similarity(decode_relative(logits, place, anchors, stride, shape), truth, rules.kind)  # (P,)
    box_term = ((1 - similarity) * keep).sum() / count

    # Where boxes share an anchor of a cell the best of them counts, in whatever order they come.
    places = level.shape[1] * shape[0] * shape[1]
    target = logits.new_full((len(level) * places,), -1.0)
    seen = torch.where(keep > 0, similarity.detach().clamp(min=0), -1.0)
    target = target.scatter_reduce(0, image * places + place, seen, "amax").view(level.shape[:4])
    weight = (taught[:, None] | (target >= 0)).to(logits.dtype)
    obj_term = (_bce(upcast(objectness), target.clamp(min=0), rules.focal_gamma, rules.obj_pw) * weight).mean()

    classes = logits.shape[1] - 5
    if classes == 1:
        return box_term, obj_term, logits.new_zeros(())
    label = targets.labels[image, box][:, None]
    onehot = torch.where(torch.arange(classes, device=label.device) == label, *rules.smooth).to(logits.dtype)  # (P, nc)
    cls_term = (_bce(logits[:, 5:], onehot, rules.focal_gamma, rules.cls_pw) * keep[:, None]).sum() / (count * classes)
    return box_term, obj_term, cls_term


def _bce(logits: Tensor, target: Tensor, gamma: float, positive: float) -> Tensor:
    """Binary cross entropy by element, its positive part times `positive`; with gamma > 0 the focal form with alpha
    0.25 (Lin et al. 2017, eq. 5)."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if positive != 1:
        loss = loss + (positive - 1) * target * F.softplus(-logits)
    if gamma == 0:
        return loss
    p = logits.sigmoid()
    wrong = 1 - (target * p + (1 - target) * (1 - p))
    return loss * (target * 0.25 + (1 - target) * 0.75) * wrong**gamma
