"""Nearest enlargement, and 3x3 convolution over a nearest-enlarged map without enlarging it first.

A map of stride 32 of an image whose sides are no multiples of 32 is the finest map's size divided by their factor and
rounded up, so its enlargement is a few pixels longer than the finest map and is cropped to it: pixel k of the small map
covers pixels s*k to s*k + s - 1. A convolution sees the cropped map, with its zero padding at the crop's border.

Legend: B images, c1, c2 channels in and out, h, w pixels of the small map, H, W of the finest, s whole factor.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import UserError


def enlarge(x: Tensor, factor: int, size: Sequence[int] | None = None) -> Tensor:
    """(B, c, h, w) -> each pixel repeated s times along both axes, cropped to `size` (H, W), by default (s*h, s*w)."""
    x = x if factor == 1 else F.interpolate(x, scale_factor=float(factor), mode="nearest")
    return x if size is None else crop(x, size)


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The upper left (H, W) pixels of a map; the map itself where it has that size."""
    height, width = size
    return x if x.shape[2] == height and x.shape[3] == width else x[:, :, :height, :width]


def check_pyramid(layer: str, pyramid: Sequence[Tensor], factors: Sequence[int]) -> None:
    """Raises `UserError` where a map is not the size of the first divided by its factor and rounded up, so that its
    pixels do not lie over those of the first. layer: its name, for the message."""
    if torch.jit.is_tracing():  # sizes are tensors there, and the model has run before
        return
    finest = tuple(pyramid[0].shape[2:])
    for index, (x, factor) in enumerate(zip(pyramid, factors, strict=True)):
        wanted = tuple(-(-side // factor) for side in finest)
        if tuple(x.shape[2:]) != wanted:
            raise UserError(f"{layer}: its input {index} has {x.shape[2]} x {x.shape[3]} cells; with a stride {factor} "
                            f"times that of input 0, which has {finest[0]} x {finest[1]}, it should have {wanted[0]} x "
                            f"{wanted[1]}, so their cells do not lie over each other; leave that level out, by "
                            "`levels` of the neck", code="bad-size")


def conv3x3_enlarged(x: Tensor, weight: Tensor, factor: int, size: Sequence[int] | None = None) -> Tensor:
    """`conv2d(enlarge(x, factor, size), weight, padding=1)`, exactly, at 4, 1.6, 0.4 ... instead of 9 products per
    pixel for factors 2, 4, 8: along each axis the three taps of an output pixel see only one or two distinct small
    pixels.

    x: (B, c1, h, w); weight: (c2, c1, 3, 3). Returns (B, c2, H, W), by default (B, c2, s*h, s*w).
    """
    if factor == 1:
        return F.conv2d(x if size is None else crop(x, size), weight, padding=1)
    height, width = x.shape[2:]
    rows = []
    for row_taps, top, row_repeat in _phases(weight, 2, factor):
        columns = []
        for taps, left, repeat in _phases(row_taps, 3, factor):
            y = F.conv2d(x, taps, padding=(taps.shape[2] - 1, taps.shape[3] - 1))
            columns += [y[:, :, top:top + height, left:left + width]] * repeat  # (B, c2, h, w)
        rows += [torch.stack(columns, -1)] * row_repeat  # (B, c2, h, w, s)
    y = torch.stack(rows, 3).flatten(4, 5).flatten(2, 3)  # (B, c2, h, s, w, s) -> (B, c2, s*h, s*w)
    return y if size is None else _cropped(y, x, weight, factor, size)


def _cropped(y: Tensor, x: Tensor, weight: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """`y` (B, c2, s*h, s*w), the convolution of the whole enlargement of `x`, -> that of the cropped one (B, c2, H, W).

    They differ in the last row and column alone, whose last tap sees a pixel in `y` and the padding in the crop. Both
    are convolved again, from the two rows or columns of the crop that they see.
    """
    height, width = size
    shorter, narrower = y.shape[2] != height, y.shape[3] != width
    y = crop(y, size)
    if shorter:
        first = max(height - 2, 0)
        strip = enlarge(x[:, :, first // factor:], factor)[:, :, first % factor:]
        row = F.conv2d(crop(strip, (height - first, width)), weight, padding=1)[:, :, -1:]
        y = torch.cat((y[:, :, :-1], row), 2)
    if narrower:
        first = max(width - 2, 0)
        strip = enlarge(x[:, :, :, first // factor:], factor)[:, :, :, first % factor:]
        column = F.conv2d(crop(strip, (height, width - first)), weight, padding=1)[:, :, :, -1:]
        y = torch.cat((y[:, :, :, :-1], column), 3)
    return y


def _phases(weight: Tensor, axis: int, factor: int) -> list[tuple[Tensor, int, int]]:
    """Kernels along one axis for the first, inner and last of the `factor` pixels that repeat a small one: the kernel,
    where its results start in the padded convolution's output, and how many pixels share it."""
    before, here, after = weight.split(1, axis)
    first = (torch.cat((before, here + after), axis), 0, 1)
    inner = (before + here + after, 0, factor - 2)
    last = (torch.cat((before + here, after), axis), 1, 1)
    return [first, inner, last] if factor > 2 else [first, last]
