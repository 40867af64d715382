"""Anchor matching of YOLOv3, v5 and v7: which anchors of which cells match a box, from the boxes' shape alone.

Legend: B images, M boxes of the fullest image, na anchors per cell, O = 5 candidate cells per box and anchor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.padded_indices import padded_nonzero
from utils.structures import PackedTargets

# The containing cell, then its left, upper, right and lower neighbour.
NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


class LevelMatches(NamedTuple):
    """Candidates of one level, all (B, M, na, O): keep, and the place (anchor * h + row) * w + column in its map."""

    keep: Tensor
    place: Tensor


class Positives(NamedTuple):
    """The positives of one level, all (P,): image, place in the (na, h, w) map, box among the M; `keep` is False for
    padding, whose indices are legal."""

    image: Tensor
    place: Tensor
    box: Tensor
    keep: Tensor


def match_anchors(targets: PackedTargets, anchors: Tensor, strides: Sequence[int], shapes: Sequence[tuple[int, int]], *,
                  ratio: float = 4.0, reach: float = 0.5) -> list[LevelMatches]:
    """Candidates of every level, for all images, boxes, anchors and cells at once.

    anchors: (L, na, 2) pixels; shapes: (h, w) per level. An anchor fits a box if no side differs by `ratio` or more.
    Its cells: the one that holds the box's centre, and each neighbour whose border is nearer than `reach` cells (0.5:
    three cells in all; 1.0: five, for auxiliary heads). Cells beyond the map are moved to its border.
    """
    low, high = targets.boxes[..., :2], targets.boxes[..., 2:]
    centre, sides = (low + high) / 2, high - low  # (B, M, 2)
    levels = []
    for level, stride, shape in zip(anchors.to(centre), strides, shapes, strict=True):
        shape_ratio = sides[:, :, None] / level  # (B, M, na, 2)
        fits = torch.maximum(shape_ratio, 1 / shape_ratio).amax(-1) < ratio  # (B, M, na); 1/0 = inf does not fit
        levels.append(_match_level(centre, fits, targets.valid, stride, shape, reach))
    return levels


def _match_level(centre: Tensor, fits: Tensor, valid: Tensor, stride: int, shape: tuple[int, int],
                 reach: float) -> LevelMatches:
    """centre (B, M, 2) pixels; fits (B, M, na): which anchors have a box's shape; valid (B, M)."""
    height, width = shape
    x, y = (centre / stride).unbind(-1)  # (B, M) in cells
    near = [(side % 1 < reach) & (side > 1) for side in (x, y, width - x, height - y)]
    near = torch.stack((torch.ones_like(valid), *near), -1)  # (B, M, O)
    column = torch.stack([(x + dx * reach).floor() for dx, _ in NEIGHBOURS], -1).long().clamp(0, width - 1)
    row = torch.stack([(y + dy * reach).floor() for _, dy in NEIGHBOURS], -1).long().clamp(0, height - 1)
    anchor = torch.arange(fits.shape[2], device=centre.device)[:, None]  # (na, 1)
    place = (anchor * height + row[:, :, None]) * width + column[:, :, None]  # (B, M, na, O)
    keep = fits[..., None] & near[:, :, None] & valid[..., None, None]
    return LevelMatches(keep, place)


def all_matches(matches: Sequence[LevelMatches]) -> list[Positives]:
    """Every candidate as a positive: the plain matching."""
    levels = []
    for keep, place in matches:
        per_box = keep.shape[2] * keep.shape[3]
        rows = padded_nonzero(keep.flatten(1), keep.shape[1] * per_box)
        levels.append(Positives(rows.image, place.flatten(1)[rows.image, rows.place],
                                rows.place.div(per_box, rounding_mode="floor"), rows.keep))
    return levels


def closest_anchors(owner: Tensor, targets: PackedTargets, anchors: Tensor, shapes: Sequence[tuple[int, int]],
                    per_box: int) -> list[Positives]:
    """Each cell's box is learned by that anchor of the cell whose sides differ least from the box's by ratio.

    owner (B, N): row of the box of each cell of all levels, -1 for none; anchors (L, na, 2) px; shapes: (h, w) per
    level; per_box: the most cells that a box can have.
    """
    levels = []
    cells = owner.split([height * width for height, width in shapes], 1)
    for level, own, (height, width) in zip(cells, anchors, shapes, strict=True):
        image, cell, keep = padded_nonzero(level >= 0, targets.boxes.shape[1] * per_box)
        box = level[image, cell].clamp(min=0)
        truth = targets.boxes[image, box]
        ratio = (truth[:, None, 2:] - truth[:, None, :2]) / own.to(truth)  # (P, na, 2)
        anchor = torch.maximum(ratio, 1 / ratio).amax(-1).argmin(-1)  # (P,)
        levels.append(Positives(image, anchor * (height * width) + cell, box, keep))
    return levels


def take(level_map: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """Rows of a (B, na, h, w, D) map of any memory layout, at flat places of (na, h, w): (..., D), without a copy."""
    return level_map[unravel(level_map, image, place)]


def unravel(level_map: Tensor, image: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and flat places of (na, h, w) -> the four indices of rows of a (B, na, h, w, D) map."""
    height, width = level_map.shape[2:4]
    above = place.div(width, rounding_mode="floor")
    return image, above.div(height, rounding_mode="floor"), above % height, place % width


def decode_relative(logits: Tensor, place: Tensor, anchors: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
    """Boxes of rows that `take` gave, in cells about their own cell's corner: (..., >=4) logits -> (..., 4) xyxy.

    About the cell, float32 keeps all its digits for small boxes far from the image's corner. anchors: (na, 2) pixels.
    """
    t = logits[..., :4].sigmoid() * 2
    centre = t[..., :2] - 0.5
    anchor = place.div(shape[0] * shape[1], rounding_mode="floor")
    half = t[..., 2:] ** 2 * (anchors.to(t) / stride)[anchor] / 2
    return torch.cat((centre - half, centre + half), -1)


def cell_corner(place: Tensor, shape: tuple[int, int]) -> Tensor:
    """Column, row, column, row of flat places of an (na, h, w) map: (..., 4), to be subtracted from xyxy in cells."""
    height, width = shape
    row = place.div(width, rounding_mode="floor") % height
    column = place % width
    return torch.stack((column, row, column, row), -1)
