"""Prior boxes of SSD (Liu et al. 2016, section 2.2).

Legend: P priors of all levels, L levels.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from models.registry import choose
from utils.boxes import cxcywh_to_xyxy

CLIPS = ("none", "all", "sides")


@dataclass(frozen=True)
class PriorSpec:
    """The priors of every cell, of L levels.

    sizes (L + 1,): the least side on each level, px, and what would be that of a next one; ratios: of the oblong priors
    of each level, 2 standing for 2:1 and 1:2; steps: pixels from cell to cell; clip: none, all (each of centre x,
    centre y, width and height cut to [0, 1] of the input, as amdegroot/ssd.pytorch does), or sides (width and height
    alone, as torchvision does). Raises `ValueError` where they do not make priors of L levels.
    """

    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...]
    clip: str = "none"

    def __post_init__(self) -> None:
        levels = len(self.steps)
        if len(self.ratios) != levels or len(self.sizes) != levels + 1:
            raise ValueError(f"{levels} steps need {levels} lists of ratios and {levels + 1} sizes, not "
                             f"{len(self.ratios)} and {len(self.sizes)}")
        if not all(v > 0 for v in (*self.sizes, *self.steps, *(r for level in self.ratios for r in level))):
            raise ValueError("sizes, ratios and steps of priors must be above 0")
        choose("clip", self.clip, CLIPS)

    @property
    def per_cell(self) -> list[int]:
        """Priors of a cell on each level: two squares and two of each ratio."""
        return [2 + 2 * len(level) for level in self.ratios]

    def shapes(self, level: int) -> list[tuple[float, float]]:
        """(width, height) of a cell's priors: the square, the larger square, then for each ratio the wide one and the
        tall one."""
        side, larger = self.sizes[level], sqrt(self.sizes[level] * self.sizes[level + 1])
        found = [(side, side), (larger, larger)]
        for ratio in self.ratios[level]:
            found += [(side * sqrt(ratio), side / sqrt(ratio)), (side / sqrt(ratio), side * sqrt(ratio))]
        return found


@lru_cache(maxsize=32)
def prior_boxes(spec: PriorSpec, shapes: tuple[tuple[int, int], ...], image_size: tuple[int, int],
                device: torch.device) -> Tensor:
    """(P, 4) xyxy in pixels of the input, float32; P runs level, row, column, prior. shapes: (h, w) of each level's
    map; image_size: (H, W) of the input. The same tensor for the same arguments: not to be written to."""
    if len(shapes) != len(spec.steps):
        raise ValueError(f"{len(shapes)} maps for priors of {len(spec.steps)} levels")
    with torch.inference_mode(False):
        parts = []
        for level, ((height, width), step) in enumerate(zip(shapes, spec.steps, strict=True)):
            sides = torch.tensor(spec.shapes(level), dtype=torch.float64)  # (n, 2)
            y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) * step for n in (height, width))
            centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[:, :, None]  # (h, w, 1, 2)
            grid = centres.expand(-1, -1, len(sides), -1), sides.expand(height, width, -1, -1)
            parts.append(torch.cat(grid, -1).flatten(0, 2))
        priors, (height, width) = torch.cat(parts), image_size
        if spec.clip != "none":
            limit = torch.tensor([width, height, width, height], dtype=torch.float64)
            first = 0 if spec.clip == "all" else 2
            priors[:, first:] = priors[:, first:].clamp(min=0).minimum(limit[first:])
        return cxcywh_to_xyxy(priors).float().to(device)
