"""The anchors of RetinaNet: on every cell of every level boxes of a few scales and ratios.

Legend: L levels, a anchors of a cell, N anchors of all levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from models.boxes.decoding import cell_grid
from models.registry import choose
from utils.boxes import cxcywh_to_xyxy

RULES = ("exact", "torchvision")


@dataclass(frozen=True)
class PyramidAnchors:
    """Squares with sides of `base` strides times 2^(k/octaves), k from 0 to octaves - 1, each reshaped to the ratios of
    height to width at equal area (Lin et al., Focal Loss, 2017, section 4); scales run fastest. Those of the cell in
    column i are centred at i strides, as in detectron2.

    rule: "exact", or "torchvision": sides cut to whole pixels, halves of the reshaped ones rounded, and cells spaced by
    the whole pixels of the frame over the cells of the map, which is less than the stride where they do not divide.
    """

    strides: tuple[int, ...]
    base: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rule: str = "exact"

    def __post_init__(self) -> None:
        choose("anchors", self.rule, RULES)
        if self.octaves < 1 or not self.ratios or not all(v > 0 for v in (self.base, *self.ratios)):
            raise ValueError(f"base {self.base:g} and ratios {list(self.ratios)} must be above 0, octaves "
                             f"{self.octaves} at least 1")

    @property
    def per_cell(self) -> int:
        return self.octaves * len(self.ratios)

    def sizes(self) -> Tensor:
        """(L, a, 2) width, height in pixels, float32."""
        return torch.tensor([[self._sides(stride, ratio, k) for ratio in self.ratios for k in range(self.octaves)]
                             for stride in self.strides])

    def _sides(self, stride: int, ratio: float, k: int) -> tuple[float, float]:
        side = self.base * stride * 2 ** (k / self.octaves)
        if self.rule == "exact":
            return side / sqrt(ratio), side * sqrt(ratio)
        side = int(self.base * stride * 2 ** (k / self.octaves))
        return 2 * round(side / sqrt(ratio) / 2), 2 * round(side * sqrt(ratio) / 2)

    def boxes(self, sizes: Tensor, shapes: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> Tensor:
        """(N, 4) xyxy pixels, by level, row, column, anchor. sizes: of `sizes()`, on the device wanted; shapes: (h, w)
        of each level's map; image_size: (H, W) of the frame."""
        levels = []
        for level, (height, width), stride in zip(sizes, shapes, self.strides, strict=True):
            centre = cell_grid(height, width, level.device, level.dtype)[:, :, None]  # (h, w, 1, 2) x, y
            if self.rule == "exact":
                centre = centre * stride
            else:
                centre = torch.cat((centre[..., :1] * (image_size[1] // width),
                                    centre[..., 1:] * (image_size[0] // height)), -1)
            centre = centre.expand(-1, -1, self.per_cell, -1)
            levels.append(torch.cat((centre, level.expand_as(centre)), -1).reshape(-1, 4))
        return cxcywh_to_xyxy(torch.cat(levels))
