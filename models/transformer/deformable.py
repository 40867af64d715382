"""Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, section 4.1, eq. 3) in plain PyTorch.

Legend: B images, Q queries, T tokens of all levels, L levels, P points per head and level, C width, H heads, D = C / H.
"""

from collections.abc import Sequence
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.boxes.similarity import full_precision

Sizes = Sequence[tuple[int, int]]  # (height, width) of each level's map, finest first


class DeformableAttention(nn.Module):
    """Each query samples every level at `points` places around its reference and sums what it finds, weighted.

    Sampling places and weights are computed in float32 whatever autocast says: in 16 bits a place in a map of 100 cells
    is off by up to a fifth of a cell.
    """

    def __init__(self, width: int = 256, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """Head h looks in direction 2 pi h / H, point p at p + 1 times the distance of the first; equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.heads) * (2 * pi / self.heads)
        ring = torch.stack((angles.cos(), angles.sin()), -1)  # (H, 2)
        ring = ring / ring.abs().amax(1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]  # (P, 1)
        places = (ring[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # (H, L, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(places.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, references: Tensor, value: Tensor, sizes: Sizes,
                padding: Tensor | None = None) -> Tensor:
        """query (B, Q, C); references (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (x, y, w, h), fractions of each
        level's map; value (B, T, C); padding (B, T), True where a token lies in it. Returns (B, Q, C)."""
        count, heads = query.shape[1], self.heads
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (heads, -1))  # (B, T, H, D)
        with full_precision(query.device):
            query = query.float()
            shape = (-1, count, heads, self.levels, self.points)
            offsets = _linear32(self.sampling_offsets, query).view(*shape, 2)
            weights = _linear32(self.attention_weights, query).view(-1, count, heads, self.levels * self.points)
            weights = weights.softmax(-1).view(shape)  # (B, Q, H, L, P)
            places = self._places(references.float(), offsets, sizes)
        return self.output_proj(sample_levels(value, sizes, places, weights))

    def _places(self, references: Tensor, offsets: Tensor, sizes: Sizes) -> Tensor:
        """(B, Q, H, L, P, 2): (x, y) of each sampling place, fractions of its level's map."""
        centres = references[:, :, None, :, None, :2]
        if references.shape[-1] == 2:
            return centres + offsets / offsets.new_tensor([(w, h) for h, w in sizes])[:, None]
        return centres + offsets / self.points * references[:, :, None, :, None, 2:] * 0.5


def sample_levels(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """sum over levels and points of weight * value there, bilinear, zero outside the map.

    value (B, T, H, D); places (B, Q, H, L, P, 2); weights (B, Q, H, L, P). Returns (B, Q, H * D) in the type of
    `value`.
    """
    batch, _, heads, depth = value.shape
    count = places.shape[1]
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B*H, Q, L, P, 2)
    share = weights.transpose(1, 2).flatten(0, 1)  # (B*H, Q, L, P)
    total = None
    for level, (part, (height, width)) in enumerate(zip(value.split([h * w for h, w in sizes], 1), sizes, strict=True)):
        plane = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, height, width).to(grid.dtype)
        found = F.grid_sample(plane, grid[:, :, level], align_corners=False)  # (B*H, D, Q, P)
        summed = (found * share[:, None, :, level]).sum(-1)  # (B*H, D, Q)
        total = summed if total is None else total + summed
    return total.view(batch, heads * depth, count).transpose(1, 2).to(value.dtype)


def _linear32(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.float(), layer.bias.float())
