"""From raw head numbers to boxes: the geometry that decoding and losses share.

Legend: B images, N = sum of h*w anchor points over levels, na anchors per cell, nc classes, bins DFL bins per side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_grid(height: int | Tensor, width: int | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Column and row of every cell of a map: (h, w, 2) as (x, y), x running fastest."""
    y, x = torch.meshgrid(torch.arange(height, device=device, dtype=dtype),
                          torch.arange(width, device=device, dtype=dtype), indexing="ij")
    return torch.stack((x, y), -1)  # (h, w, 2)


def anchor_points(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device,
                  dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Centres of all cells of a pyramid, level by level, row by row.

    shapes: (h, w) of each level. Returns points (N, 2) as x, y in input pixels and stride (N, 1) in pixels.
    """
    points, steps = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        centre = (cell_grid(height, width, device, dtype) + 0.5).reshape(-1, 2) * stride  # (h*w, 2)
        points.append(centre)
        steps.append(torch.full_like(centre[:, :1], stride))
    return torch.cat(points), torch.cat(steps)


def dfl_expectation(box_logits: Tensor, bins: int = 16) -> Tensor:
    """(..., 4*bins) logits -> (..., 4) expected distance left, top, right, bottom in stride units.

    Generalized Focal Loss (Li et al. 2020, eq. 5): each side is a distribution over 0..bins-1.
    """
    logits = box_logits.reshape(*box_logits.shape[:-1], 4, bins)  # ONNX has `unflatten` from operator set 13 on only
    probability = logits.softmax(-1)  # (..., 4, bins)
    # Not a product of matrices: autocast would round that to its low precision, and 15 bins of 32 px need more.
    return (probability * torch.arange(bins, device=box_logits.device, dtype=box_logits.dtype)).sum(-1)


def distances_to_boxes(ltrb: Tensor, points: Tensor) -> Tensor:
    """(..., 4) distances to the four sides and (..., 2) points, same unit -> (..., 4) xyxy."""
    return torch.cat((points - ltrb[..., :2], points + ltrb[..., 2:]), -1)


def decode_anchor(raw: Tensor, anchors_px: Tensor, stride: int | float) -> Tensor:
    """One anchor-head level: (B, na, h, w, >=4) logits -> (B, na, h, w, 4) centre x, y, width, height in pixels.

    xy = (2 sigmoid - 0.5 + cell) * stride, wh = (2 sigmoid)^2 * anchor. anchors_px: (na, 2) in pixels.
    """
    height, width = raw.shape[2], raw.shape[3]
    t = raw[..., :4].sigmoid() * 2
    xy = (t[..., :2] - 0.5 + cell_grid(height, width, raw.device, t.dtype)) * stride
    wh = t[..., 2:] ** 2 * anchors_px.to(t)[:, None, None, :]
    return torch.cat((xy, wh), -1)
