"""Layers of other repositories' model files that move channels and pixels, or enlarge a map by a convolution.

Legend: B images, c channels, h, w pixels of a map.
"""

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.registry import register


@register("Contract")
class Contract(nn.Module):
    """Space to depth, (B, c, h, w) -> (B, c*g*g, h/g, w/g): groups of all channels by (row, column) in the block."""

    def __init__(self, c1: int, gain: int = 2) -> None:
        super().__init__()
        self.out_channels, self.stride = c1 * gain * gain, gain

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        g = self.stride
        x = x.reshape(b, c, h // g, g, w // g, g).permute(0, 3, 5, 1, 2, 4)  # (B, g, g, c, h/g, w/g)
        return x.reshape(b, self.out_channels, h // g, w // g)


@register("Expand")
class Expand(nn.Module):
    """Depth to space, the inverse of `Contract`: (B, c, h, w) -> (B, c/g/g, g*h, g*w)."""

    def __init__(self, c1: int, gain: int = 2) -> None:
        super().__init__()
        if c1 % gain**2:
            raise ValueError(f"{c1} channels are no multiple of {gain}^2")
        self.gain, self.out_channels, self.stride = gain, c1 // gain**2, 1 / gain

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        g = self.gain
        x = x.reshape(b, g, g, self.out_channels, h, w).permute(0, 3, 4, 1, 5, 2)  # (B, c, h, g, w, g)
        return x.reshape(b, self.out_channels, h * g, w * g)


@register("Foldcut")
class Foldcut(nn.Module):
    """The first half of the channels plus the second."""

    def __init__(self, c1: int, dimension: int = 0) -> None:
        super().__init__()
        _even(c1)
        self.out_channels = c1 // 2

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return first + second


@register("Chuncat", multi_input=True)
class Chuncat(nn.Module):
    """The first halves of all maps, then their second halves, joined over channels."""

    def __init__(self, channels: list[int], dimension: int = 1) -> None:
        super().__init__()
        if dimension != 1:
            raise ValueError(f"joins channels, dimension 1, not {dimension}")
        for c in channels:
            _even(c)
        self.out_channels = sum(channels)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        halves = [x.chunk(2, 1) for x in inputs]
        return torch.cat([first for first, _ in halves] + [second for _, second in halves], 1)


def _even(c: int) -> None:
    if c % 2:
        raise ValueError(f"{c} channels cannot be halved")


@register("nn.ConvTranspose2d", width="c2")
class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution as in torch, where it enlarges by its stride exactly."""

    def __init__(self, c1: int, c2: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0,
                 groups: int = 1, bias: bool = True) -> None:
        super().__init__(c1, c2, kernel_size, stride, padding, output_padding, groups, bias)
        if kernel_size - 2 * padding + output_padding != stride:
            raise ValueError(f"kernel {kernel_size} - 2 * padding {padding} + output padding {output_padding} must be "
                             f"the stride {stride}, so that the map grows by that factor")
        self.factor, self.stride = stride, 1 / stride  # what the builder asks for is the map's stride

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return F.conv_transpose2d(x, self.weight, self.bias, self.factor, self.padding, self.output_padding,
                                  self.groups)


@register("DWConvTranspose2d", width="c2")
class DWConvTranspose2d(ConvTranspose2d):
    """Depth-wise transposed convolution: as many groups as both widths allow."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, s, p1, p2, gcd(c1, c2))
