"""Layers that move, join or rearrange maps, and the `nn.` layers that YOLO files name.

Legend: B images, c channels, h, w pixels of a map.
"""

from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from models.layers.conv import Conv
from models.registry import register


def _same_stride(strides: list[int]) -> None:
    if len(set(strides)) > 1:
        raise ValueError(f"inputs have strides {' and '.join(f'{s:g}' for s in strides)}")


@register("Concat", multi_input=True)
class Concat(nn.Module):
    """Maps of one resolution joined over an axis, over channels by default."""

    def __init__(self, channels: list[int], dimension: int = 1, *, strides: list[int]) -> None:
        super().__init__()
        _same_stride(strides)
        self.dimension = dimension
        self.out_channels = sum(channels) if dimension == 1 else channels[0]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return torch.cat(inputs, self.dimension)


@register("Shortcut", "Sum", multi_input=True)
class Shortcut(nn.Module):
    """Element-wise sum. The argument that YOLO files write here has no meaning there either."""

    def __init__(self, channels: list[int], dimension: int = 0, *, strides: list[int]) -> None:
        super().__init__()
        _same_stride(strides)
        if len(set(channels)) > 1:
            raise ValueError(f"inputs have {' and '.join(map(str, channels))} channels")
        self.out_channels = channels[0]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return reduce(add, inputs)


@register("ReOrg")
class ReOrg(nn.Module):
    """Space to depth: (B, c, h, w) -> (B, 4c, h/2, w/2), groups by (row, column) parity 00, 10, 01, 11."""

    stride = 2

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.out_channels = 4 * c1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)


@register("Focus", width="c2")
class Focus(nn.Module):
    """Space to depth and a convolution unit, the stem of early YOLOv5."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1,
                 act: bool | str = True) -> None:
        super().__init__()
        self.reorg = ReOrg(c1)
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)
        self.out_channels, self.stride = c2, 2 * s

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.reorg(x))


@register("nn.Upsample", "Upsample")
class Upsample(nn.Upsample):
    """Enlarge by a whole factor."""

    def __init__(self, c1: int, size: None = None, scale_factor: float = 2, mode: str = "nearest") -> None:
        if size is not None:
            raise ValueError("a fixed size would tie the model to one image size; give a scale factor")
        if mode not in ("nearest", "bilinear", "bicubic", "nearest-exact"):
            raise ValueError(f"mode {mode!r} is not one of nearest, bilinear, bicubic, nearest-exact")
        super().__init__(None, scale_factor, mode)
        self.out_channels, self.stride = c1, 1 / scale_factor


@register("nn.MaxPool2d")
class MaxPool2d(nn.MaxPool2d):
    """Max pooling as in torch."""

    def __init__(self, c1: int, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__(kernel_size, stride, padding)
        self.out_channels = c1


@register("nn.ZeroPad2d")
class ZeroPad2d(nn.ZeroPad2d):
    """Zeros at left, right, top, bottom."""

    def __init__(self, c1: int, padding: int | list[int]) -> None:
        super().__init__(tuple(padding) if isinstance(padding, list) else padding)
        self.out_channels = c1


@register("nn.Conv2d", width="c2")
class Conv2d(nn.Conv2d):
    """Plain convolution as in torch."""

    def __init__(self, c1: int, c2: int, kernel_size: int = 1, stride: int = 1, padding: int = 0, dilation: int = 1,
                 groups: int = 1, bias: bool = True) -> None:
        super().__init__(c1, c2, kernel_size, stride, padding, dilation, groups, bias)


@register("nn.BatchNorm2d")
class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm with YOLO's constants."""

    def __init__(self, c1: int) -> None:
        super().__init__(c1, eps=1e-3, momentum=0.03)
        self.out_channels = c1


@register("nn.Identity")
class Identity(nn.Identity):
    """Passes its input on."""

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.out_channels = c1


@register("First", multi_input=True)
class First(nn.Module):
    """Passes the first of its inputs on: what a row that joins several maps becomes where the joining is left out."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.out_channels = channels[0]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0]
