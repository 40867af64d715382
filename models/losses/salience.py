"""Salience of tokens: its targets and focal loss (Hou et al. 2024, Salience DETR, eq. 2 to 4).

Legend: B images, M rows of the fullest image, h, w cells of a level, n = h * w.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.padded_indices import ignored_cells
from utils.structures import PackedTargets

REACH = 64.0  # px: to the farthest side of an object that the finest level learns; doubles with each level
REFERENCE_AREA = 32.0**2  # px^2 of an object that weighs 1 where size counts
AT_ONCE = 1 << 24  # pairs of a cell and an object in memory at a time


@dataclass(frozen=True)
class LevelTargets:
    """conf (B, n): how near to the centre of an object a cell lies, 0 outside; area (B, n): px^2 of that object."""

    conf: Tensor
    area: Tensor


def reach_of(level: int, levels: int) -> tuple[float, float]:
    """(above, up to): the distances in pixels that a level is responsible for; further levels double them."""
    limits = [-1.0, *(REACH * 2**k for k in range(levels - 1)), float("inf")]
    return limits[level], limits[level + 1]


def level_targets(targets: PackedTargets, shape: tuple[int, int], image_size: tuple[int, int],
                  reach: tuple[float, float]) -> LevelTargets:
    """conf = 1 - sqrt(((l - r) / (l + r))^2 + ((t - b) / (t + b))^2) / 2 of the nearest object that holds the cell's
    centre, 0 where no object that holds it has its farthest side within `reach`."""
    device, boxes = targets.boxes.device, targets.boxes
    y, x = (((torch.arange(cells, device=device) + 0.5) * (side / cells)) for cells, side in zip(
        shape, image_size, strict=True))
    count, rows = shape[0] * shape[1], boxes.shape[1]
    conf = boxes.new_zeros(len(boxes), count)
    area, near = torch.ones_like(conf), torch.zeros_like(conf, dtype=torch.bool)
    step = max(AT_ONCE // max(count * len(boxes), 1), 1)
    for part in (slice(k, k + step) for k in range(0, rows, step)):
        x1, y1, x2, y2 = boxes[:, part, :, None, None].unbind(2)  # (B, m, 1, 1)
        left, right = x - x1, x2 - x  # (B, m, 1, w)
        top, bottom = y[:, None] - y1, y2 - y[:, None]  # (B, m, h, 1)
        inside = (torch.minimum(left, right) > 0) & (torch.minimum(top, bottom) > 0)
        inside = inside & targets.valid[:, part, None, None]
        wide, high = (left - right) / (left + right).clamp(min=1e-6), (top - bottom) / (top + bottom).clamp(min=1e-6)
        value = (1 - (wide.square() + high.square()).sqrt() / 2) * inside  # (B, m, h, w)
        farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
        near |= (inside & (farthest > reach[0]) & (farthest <= reach[1])).any(1).flatten(1)
        best, index = value.flatten(2).max(1)  # (B, n)
        size = ((x2 - x1) * (y2 - y1)).flatten(1).gather(1, index)
        area = torch.where(best > conf, size, area)
        conf = torch.maximum(best, conf)
    return LevelTargets(conf * near, area)


def salience_sums(maps: Sequence[Tensor], targets: PackedTargets, image_size: tuple[int, int],
                  by_size: bool = False) -> tuple[Tensor, Tensor]:
    """The focal loss summed over all cells of all levels, and the number of cells with a target above 0.

    maps: logits (B, 1, h, w), finest first. by_size: each cell's loss times sqrt(32^2 / area of its object), kept in
    [0.5, 2]. Cells in crowd regions that learn no object are left out.
    """
    total, positives = 0, 0
    for level, logits in enumerate(maps):
        shape = (logits.shape[2], logits.shape[3])
        target = level_targets(targets, shape, image_size, reach_of(level, len(maps)))
        x, t = logits.flatten(1).float(), target.conf
        p = x.sigmoid()
        loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        loss = loss * (0.75 * p.square() * (1 - t) + 0.25 * t * (1 - p).square())
        if by_size:
            loss = loss * torch.where(t > 0, (REFERENCE_AREA / target.area.clamp(min=1e-6)).sqrt().clamp(0.5, 2), 1)
        hidden = ignored_cells(targets.boxes, targets.ignore, shape, image_size[0] / shape[0]).flatten(1)
        total = total + (loss * ~(hidden & (t == 0))).sum()
        positives = positives + (t > 0).sum()
    return total, positives
