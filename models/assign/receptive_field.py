"""Assignment by Gaussian receptive fields (Xu et al., RFLA, ECCV 2022): which points learn a box, from geometry alone.

Legend: B images, M boxes of the fullest image (m of a part of them), N points of all levels, k points per box.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.assign.padded_indices import box_chunks
from utils.structures import PackedTargets

SMALLEST = 1e-2  # px: sides below it count as this long


@dataclass(frozen=True)
class RflaOptions:
    """topk: points of a box in the first stage; radius: of a point's effective receptive field, in strides of its
    level; decay: of the radius in the second stage.

    topk and decay are the paper's k and beta. It takes half the radius of the theoretical receptive field (eq. 1, 2),
    which grows with a network's depth. Here a field is 12 strides wide, as along YOLOv8n's backbone (eq. 1: 95, 239 and
    399 px at strides 8, 16 and 32, before SPPF), so half of its radius is 3.
    """

    topk: int = 3
    radius: float = 3.0
    decay: float = 0.9

    @property
    def per_box(self) -> int:
        """The most points that a box can get: one more in the second stage."""
        return self.topk + 1


@torch.no_grad()
def assign_receptive_field(points: Tensor, steps: Tensor, targets: PackedTargets, options: RflaOptions | None = None,
                           within: float = torch.inf) -> Tensor:
    """The row of the box that each point learns, -1 for background: (B, N) int64 (hierarchical assignment, section
    3.3, eq. 7).

    points (N, 2) x, y and steps (N, 1) strides, in pixels. The score of a point for a box is 1 / (1 + D), D the
    divergence of `divergences`. First every box claims its `topk` best points, then, with smaller radii, the best of
    those that no box got; of several boxes that claim a point the one with the best score gets it. within: only points
    less than so many of their strides from a box's centre, on each axis, are its candidates. Memory: temporaries of
    `padded_indices.PAIRS_*` elements (or B*N, if more), plus O(B * (N + M*k)).
    """
    options = options or RflaOptions()
    owner = torch.full((len(targets.boxes), len(points)), -1, dtype=torch.int64, device=points.device)
    if targets.boxes.shape[1] == 0:
        return owner
    owner = _claims(points, steps, options.radius, targets, owner < 0, options.topk, within)
    second = _claims(points, steps, options.radius * options.decay, targets, owner < 0, 1, within)
    return torch.where(owner < 0, second, owner)


def divergences(points: Tensor, radius: Tensor, boxes: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each point's Gaussian, of deviation radius (N,) px about points (N, 2), from each
    box's, of half its sides about its centre (section 3.1, 3.2): boxes (B, m, 4) -> (B, m, N)."""
    centre, spread = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=SMALLEST) / 2
    x, y = points.T.contiguous()  # (N,)
    cx, cy = centre[..., None].unbind(-2)  # (B, m, 1)
    wx, wy = spread[..., None].square().reciprocal().unbind(-2)  # (B, m, 1)
    distance = (x - cx).square_().mul_(wx).add_((y - cy).square_().mul_(wy))
    distance.add_(radius.square() * (wx + wy)).sub_(4 * radius.log()).sub_((wx * wy).log() + 2)
    return distance.div_(2)


def _claims(points: Tensor, steps: Tensor, radius: float, targets: PackedTargets, free: Tensor, k: int,
            within: float) -> Tensor:
    """Owners (B, N) of the free points (B, N) when each box claims its k best. radius: in strides."""
    batch, places = free.shape
    step = steps[:, 0]  # (N,)
    k, asked = min(k, places), []
    for part in box_chunks(targets.boxes.shape[1], batch * places, free.device):
        boxes = targets.boxes[:, part].to(points.dtype)  # (B, m, 4)
        distance = divergences(points, step * radius, boxes)  # (B, m, N)
        usable = free[:, None] & targets.valid[:, part, None]
        if within < torch.inf:
            centre = ((boxes[..., :2] + boxes[..., 2:]) / 2)[..., None]  # (B, m, 2, 1)
            for own, middle in zip(points.T, centre.unbind(-2), strict=True):
                usable &= (own - middle).abs_() < step * within
        values, indices = distance.masked_fill_(~usable, torch.inf).topk(k, -1, largest=False)  # (B, m, k)
        asked.append((values, indices))
    values, indices = (torch.cat(parts, 1) for parts in zip(*asked, strict=True))
    return best_claimants(indices, values, places)


def best_claimants(places: Tensor, costs: Tensor, size: int) -> Tensor:
    """places, costs (B, M, k): what each box claims, an infinite cost being no claim -> the box to which each of `size`
    places is cheapest, the first of equals, -1 where none claims it: (B, size)."""
    batch, boxes, _ = places.shape
    row = torch.arange(boxes, device=places.device)[None, :, None].expand_as(places).flatten(1)  # (B, M*k)
    places, costs = places.flatten(1), costs.flatten(1)
    best = costs.new_full((batch, size), torch.inf).scatter_reduce_(1, places, costs, "amin")
    row = torch.where((costs < torch.inf) & (costs == best.gather(1, places)), row, boxes)
    owner = torch.full((batch, size), boxes, dtype=torch.int64, device=places.device)
    owner = owner.scatter_reduce_(1, places, row, "amin")
    return torch.where(owner < boxes, owner, -1)
