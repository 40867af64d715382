"""Pooling blocks: spatial pyramids and the ways to halve a map.

Legend: c1 channels in, c2 channels out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.conv import Conv, activation, batch_norm
from models.registry import register


def pool_same(kernel: int) -> nn.MaxPool2d:
    """Max pooling that keeps the size of the map."""
    return nn.MaxPool2d(kernel, 1, kernel // 2)


@register("MP")
class MP(nn.MaxPool2d):
    """Max pooling k x k with stride k."""

    def __init__(self, c1: int, k: int = 2) -> None:
        super().__init__(k, k)
        self.out_channels = c1


@register("SP")
class SP(nn.MaxPool2d):
    """Max pooling with the padding that keeps the size at stride 1."""

    def __init__(self, c1: int, k: int = 3, s: int = 1) -> None:
        super().__init__(k, s, k // 2)
        self.out_channels = c1


@register("SPP", width="c2")
class SPP(nn.Module):
    """Spatial pyramid pooling: the map beside its max over several windows."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * (len(k) + 1), c2)
        self.m = nn.ModuleList(pool_same(size) for size in k)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


@register("SPPF", width="c2")
class SPPF(nn.Module):
    """SPP by three poolings in series, equal to windows k, 2k-1, 3k-2 side by side."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * 4, c2)
        self.m = pool_same(k)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        series = [self.cv1(x)]
        for _ in range(3):
            series.append(self.m(series[-1]))
        return self.cv2(torch.cat(series, 1))


def _pyramid(x: Tensor, pools: nn.ModuleList) -> Tensor:
    """x beside its max over ever wider windows, widest last."""
    series = [x]
    for pool in pools:
        series.append(pool(series[-1]))
    return torch.cat(series, 1)


def _serial_pools(kernels: Sequence[int]) -> nn.ModuleList:
    """Poolings that, each on the output of the one before, give the windows `kernels` (odd, ascending): a max over a
    window of a is a max over windows of b <= a followed by one over a - b + 1.
    """
    if list(kernels) != sorted(set(kernels)) or any(k % 2 == 0 for k in kernels):
        raise ValueError(f"pooling windows {list(kernels)} are not odd and ascending")
    return nn.ModuleList(pool_same(k - before + 1) for k, before in zip(kernels, (1, *kernels), strict=False))


@register("SPPCSPC", width="c2", repeats="n")
class SPPCSPC(nn.Module):
    """The pyramid pooling of YOLOv7 inside a CSP block; hidden width 2 * e * c2."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5,
                 k: Sequence[int] = (5, 9, 13), *, n: int = 1) -> None:
        super().__init__()
        c = int(2 * c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = Conv(c1, c)
        self.cv3 = Conv(c, c, 3)
        self.cv4 = Conv(c, c)
        self.cv5 = Conv((len(k) + 1) * c, c)
        self.cv6 = Conv(c, c, 3)
        self.cv7 = Conv(2 * c, c2)
        self.m = _serial_pools(k)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        main = _pyramid(self.cv4(self.cv3(self.cv1(x))), self.m)
        return self.cv7(torch.cat((self.cv6(self.cv5(main)), self.cv2(x)), 1))


@register("SPPCSP", width="c2", repeats="n")
class SPPCSP(nn.Module):
    """The pyramid pooling of YOLOv4 and YOLOR: a plain convolution beside it, one batch norm over both."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5,
                 k: Sequence[int] = (5, 9, 13), *, n: int = 1) -> None:
        super().__init__()
        c = int(2 * c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = nn.Conv2d(c1, c, 1, bias=False)
        self.cv3 = Conv(c, c, 3)
        self.cv4 = Conv(c, c)
        self.cv5 = Conv((len(k) + 1) * c, c)
        self.cv6 = Conv(c, c, 3)
        self.bn = batch_norm(2 * c)
        self.act = activation(True)
        self.cv7 = Conv(2 * c, c2)
        self.m = _serial_pools(k)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        main = self.cv6(self.cv5(_pyramid(self.cv4(self.cv3(self.cv1(x))), self.m)))
        return self.cv7(self.act(self.bn(torch.cat((main, self.cv2(x)), 1))))


@register("DownC", width="c2", repeats="n")
class DownC(nn.Module):
    """Half the channels by a strided 3x3, half by pooling and a 1x1."""

    def __init__(self, c1: int, c2: int, k: int = 2, *, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c1)
        self.cv2 = Conv(c1, c2 // 2, 3, k)
        self.cv3 = Conv(c1, c2 // 2)
        self.mp = nn.MaxPool2d(k, k)
        self.out_channels, self.stride = c2, k

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.cv2(self.cv1(x)), self.cv3(self.mp(x))), 1)


@register("Transition", width="c", multi_input=True)
class Transition(nn.Module):
    """How YOLOv7 halves a map: a strided 3x3 behind a 1x1, beside pooling and a 1x1, each `c` wide; a second input, at
    the new resolution, is appended.
    """

    def __init__(self, channels: list[int], c: int, act: bool | str = True, *, strides: list[int]) -> None:
        super().__init__()
        if any(stride != 2 * strides[0] for stride in strides[1:]):
            raise ValueError(f"inputs have strides {' and '.join(map(str, strides))}; "
                             "the later ones must be twice the first")
        self.mp = nn.MaxPool2d(2, 2)
        self.cv1 = Conv(channels[0], c, act=act)
        self.cv2 = Conv(channels[0], c, act=act)
        self.cv3 = Conv(c, c, 3, 2, act=act)
        self.out_channels, self.stride = 2 * c + sum(channels[1:]), 2

    def forward(self, inputs: list[Tensor]) -> Tensor:
        x, *lateral = inputs
        return torch.cat((self.cv3(self.cv2(x)), self.cv1(self.mp(x)), *lateral), 1)
