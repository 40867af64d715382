"""The assigners that a kind of head can learn by, by the names of `--assign`: one table for heads that predict a box
per point, one for those that predict a box per anchor of a cell.

Legend: B images, N points of all levels, nc classes, na anchors per cell.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.anchor_match import LevelMatches, Positives, all_matches, closest_anchors, match_anchors
from models.assign.ota import assign_ota
from models.assign.padded_indices import padded_nonzero
from models.assign.receptive_field import RflaOptions, assign_receptive_field
from models.assign.similarity_distance import SimdOptions, assign_similarity_distance
from models.assign.task_aligned import PointAssignment, TalOptions, assign_task_aligned
from models.boxes.decoding import anchor_points
from models.registry import choose
from utils.errors import UserError
from utils.structures import PackedTargets

RFLA, SIMD = RflaOptions(), SimdOptions()
DECODED = 1.0  # strides from a cell's centre, below which an anchor head can place a box's centre (2 sigmoid - 0.5)


class PointHead(NamedTuple):
    """What a head without anchors predicts and where: boxes (B, N, 4) xyxy px, class_logits (B, nc, n) per level,
    points (N, 2) and steps (N, 1) px, strides of the levels."""

    boxes: Tensor
    class_logits: Sequence[Tensor]
    points: Tensor
    steps: Tensor
    strides: Sequence[int]


class AnchorHead(NamedTuple):
    """What a head with anchors predicts and where: maps (B, na, h, w, 5+nc) per level, anchors (L, na, 2) px, strides;
    ratio, reach: of `match_anchors`; top: of `assign_ota`."""

    maps: Sequence[Tensor]
    anchors: Tensor
    strides: Sequence[int]
    ratio: float
    reach: float
    top: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of each level's map."""
        return [(m.shape[2], m.shape[3]) for m in self.maps]

    def matches(self, targets: PackedTargets) -> list[LevelMatches]:
        """The candidates by shape."""
        return match_anchors(targets, self.anchors, self.strides, self.shapes, ratio=self.ratio, reach=self.reach)


def _tal(head: PointHead, targets: PackedTargets, options: TalOptions) -> PointAssignment:
    return assign_task_aligned(head.boxes, head.class_logits, head.points, targets, options)


def _stal(head: PointHead, targets: PackedTargets, options: TalOptions) -> PointAssignment:
    """TAL for small targets, the rule of Ultralytics 8.4: sides below the second stride count as that long."""
    return _tal(head, targets, replace(options, min_side=float(head.strides[:2][-1])))


def _rfla_points(head: PointHead, targets: PackedTargets, _: TalOptions) -> PointAssignment:
    """Every positive has the target 1 and so an equal share of the loss. A target of predicted overlap, as TAL's, would
    take the loss from those that miss their box as yet, which an assignment by geometry is to teach."""
    box = assign_receptive_field(head.points, head.steps, targets, RFLA)
    return PointAssignment(box, (box >= 0).to(head.boxes.dtype), RFLA.per_box)


def _simd_points(head: PointHead, targets: PackedTargets, _: TalOptions) -> PointAssignment:
    """The prior of a point is a square about it. Targets as in `_rfla_points`."""
    half = head.steps * SIMD.side / 2  # (N, 1)
    box = assign_similarity_distance(torch.cat((head.points - half, head.points + half), 1), targets, SIMD)
    return PointAssignment(box, (box >= 0).to(head.boxes.dtype), SIMD.topk)


def _anchor(head: AnchorHead, targets: PackedTargets) -> list[Positives]:
    return all_matches(head.matches(targets))


def _ota(head: AnchorHead, targets: PackedTargets) -> list[Positives]:
    return assign_ota(head.maps, head.matches(targets), head.anchors, head.strides, targets, top=head.top)


def _rfla_cells(head: AnchorHead, targets: PackedTargets) -> list[Positives]:
    """The centres of cells are the points, of those from which the box's centre can be predicted; the anchor that
    learns is the one of the box's shape."""
    points, steps = anchor_points(head.shapes, head.strides, head.maps[0].device)
    owner = assign_receptive_field(points, steps, targets, RFLA, within=DECODED)
    return closest_anchors(owner, targets, head.anchors, head.shapes, RFLA.per_box)


def _simd_anchors(head: AnchorHead, targets: PackedTargets) -> list[Positives]:
    """The priors are the anchors about the centres of their cells, of those from which the box's centre can be
    predicted."""
    priors, reach, counts = [], [], []
    for anchors, stride, shape in zip(head.anchors, head.strides, head.shapes, strict=True):
        points, steps = anchor_points([shape], [stride], anchors.device)
        half = anchors[:, None] / 2  # (na, 1, 2)
        priors.append(torch.cat((points - half, points + half), 2).flatten(0, 1))  # (na*h*w, 4)
        reach.append(steps[:, 0].repeat(len(anchors)) * DECODED)
        counts.append(len(priors[-1]))
    owner = assign_similarity_distance(torch.cat(priors), targets, SIMD, torch.cat(reach))
    found = []
    for level in owner.split(counts, 1):
        image, place, keep = padded_nonzero(level >= 0, targets.boxes.shape[1] * SIMD.topk)
        found.append(Positives(image, place, level[image, place].clamp(min=0), keep))
    return found


POINT_ASSIGNERS: dict[str, Callable[[PointHead, PackedTargets, TalOptions], PointAssignment]] = {
    "tal": _tal, "stal": _stal, "rfla": _rfla_points, "simd": _simd_points}
ANCHOR_ASSIGNERS: dict[str, Callable[[AnchorHead, PackedTargets], list[Positives]]] = {
    "anchor": _anchor, "ota": _ota, "rfla": _rfla_cells, "simd": _simd_anchors}


def choose_assigner(name: str, own: dict[str, Callable]) -> str:
    """`name` where it is in the table `own` of a kind of head. Raises `UserError` otherwise, which says so where it is
    an assigner of the other kind."""
    has, lacks = ("no anchors", "some") if own is POINT_ASSIGNERS else ("anchors", "none")
    others = ANCHOR_ASSIGNERS if own is POINT_ASSIGNERS else POINT_ASSIGNERS
    if name in others and name not in own:
        raise UserError(f"assign {name!r} is not one of {', '.join(own)}: this head has {has}, and {name} is for heads "
                        f"that have {lacks}", code="unknown-name")
    return choose("assign", name, own)
