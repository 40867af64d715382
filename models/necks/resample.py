"""Nearest enlargement, and 3x3 convolution over a nearest-enlarged map without enlarging it first.

Legend: B images, c1, c2 channels in and out, h, w pixels of the small map, s whole factor of enlargement.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def enlarge(x: Tensor, factor: int) -> Tensor:
    """(B, c, h, w) -> (B, c, s*h, s*w), each pixel repeated."""
    return x if factor == 1 else F.interpolate(x, scale_factor=float(factor), mode="nearest")


def conv3x3_enlarged(x: Tensor, weight: Tensor, factor: int) -> Tensor:
    """`conv2d(enlarge(x, factor), weight, padding=1)`, exactly, at 4, 1.6, 0.4 ... instead of 9 products per pixel for
    factors 2, 4, 8: along each axis the three taps of an output pixel see only one or two distinct small pixels.

    x: (B, c1, h, w); weight: (c2, c1, 3, 3). Returns (B, c2, s*h, s*w).
    """
    if factor == 1:
        return F.conv2d(x, weight, padding=1)
    height, width = x.shape[2:]
    rows = []
    for row_taps, top, row_repeat in _phases(weight, 2, factor):
        columns = []
        for taps, left, repeat in _phases(row_taps, 3, factor):
            y = F.conv2d(x, taps, padding=(taps.shape[2] - 1, taps.shape[3] - 1))
            columns += [y[:, :, top:top + height, left:left + width]] * repeat  # (B, c2, h, w)
        rows += [torch.stack(columns, -1)] * row_repeat  # (B, c2, h, w, s)
    return torch.stack(rows, 3).flatten(4, 5).flatten(2, 3)  # (B, c2, h, s, w, s) -> (B, c2, s*h, s*w)


def _phases(weight: Tensor, axis: int, factor: int) -> list[tuple[Tensor, int, int]]:
    """Kernels along one axis for the first, inner and last of the `factor` pixels that repeat a small one: the kernel,
    where its results start in the padded convolution's output, and how many pixels share it."""
    before, here, after = weight.split(1, axis)
    first = (torch.cat((before, here + after), axis), 0, 1)
    inner = (before + here + after, 0, factor - 2)
    last = (torch.cat((before + here, after), axis), 1, 1)
    return [first, inner, last] if factor > 2 else [first, last]
