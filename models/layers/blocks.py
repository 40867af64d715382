"""Residual, cross-stage-partial and ELAN blocks. Parts are declared in the order of the original code bases, because
their checkpoints are carried in by name or by order.

Legend: c1 channels in, c2 channels out, n repeats, e hidden width over c2, cat = concatenation over channels.
"""

import torch
from torch import Tensor, nn

from models.layers.conv import Conv, activation, batch_norm
from models.registry import register


@register("Bottleneck", width="c2")
class Bottleneck(nn.Module):
    """1x1 then 3x3, plus the input where `shortcut` and the widths allow."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, k: int = 1) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, k)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = shortcut and c1 == c2
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


def bottlenecks(c: int, n: int, shortcut: bool, g: int = 1, k: int = 1) -> nn.Sequential:
    """n bottlenecks of equal width inside and out."""
    return nn.Sequential(*(Bottleneck(c, c, shortcut, g, 1.0, k=k) for _ in range(n)))


@register("C3", "BottleneckCSPA", width="c2", repeats="n")
class C3(nn.Module):
    """YOLOv5's CSP block: bottlenecks on one half, a 1x1 on the other, 1x1 over both."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = Conv(c1, c)
        self.cv3 = Conv(2 * c, c2)
        self.m = bottlenecks(c, n, shortcut, g)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


@register("BottleneckCSPB", width="c2", repeats="n")
class BottleneckCSPB(nn.Module):
    """CSP block of the YOLOR and YOLOv4-CSP necks: both branches leave from one 1x1."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2)
        self.cv3 = Conv(2 * c2, c2)
        self.m = bottlenecks(c2, n, shortcut, g)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv3(torch.cat((self.m(x), self.cv2(x)), 1))


@register("BottleneckCSPC", width="c2", repeats="n")
class BottleneckCSPC(nn.Module):
    """C3 with one more 1x1 behind the bottlenecks."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = Conv(c1, c)
        self.cv3 = Conv(c, c)
        self.cv4 = Conv(2 * c, c2)
        self.m = bottlenecks(c, n, shortcut, g)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        return self.cv4(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))


@register("BottleneckCSP", width="c2", repeats="n")
class BottleneckCSP(nn.Module):
    """CSP block of YOLOv4: plain 1x1 convolutions end both branches, one batch norm serves them together."""

    plain_end = True  # whether a plain 1x1 follows the bottlenecks

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = nn.Conv2d(c1, c, 1, bias=False)
        self.cv3 = nn.Conv2d(c, c, 1, bias=False) if self.plain_end else nn.Identity()
        self.cv4 = Conv(2 * c, c2)
        self.bn = batch_norm(2 * c)
        self.act = activation(True)
        self.m = bottlenecks(c, n, shortcut, g)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(y)))


@register("BottleneckCSPF", width="c2", repeats="n")
class BottleneckCSPF(BottleneckCSP):
    """BottleneckCSP of the YOLOR backbone: no plain convolution behind the bottlenecks."""

    plain_end = False


@register("BottleneckCSP2", width="c2", repeats="n")
class BottleneckCSP2(nn.Module):
    """CSP block of the YOLOv4 neck: branches of full width from one 1x1, one batch norm over both."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = nn.Conv2d(c2, c2, 1, bias=False)
        self.cv3 = Conv(2 * c2, c2)
        self.bn = batch_norm(2 * c2)
        self.act = activation(True)
        self.m = bottlenecks(c2, n, shortcut, g)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv3(self.act(self.bn(torch.cat((self.m(x), self.cv2(x)), 1))))


@register("C2f", width="c2", repeats="n")
class C2f(nn.Module):
    """YOLOv8's block: split in halves, bottlenecks in series on the second, every piece kept."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv((2 + n) * c, c2)
        self.m = nn.ModuleList(Bottleneck(c, c, shortcut, g, 1.0, k=3) for _ in range(n))
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        pieces = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            pieces.append(block(pieces[-1]))
        return self.cv2(torch.cat(pieces, 1))


@register("C2", width="c2", repeats="n")
class C2(nn.Module):
    """YOLOv8-P6's block: split in halves, bottlenecks on the first."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv(2 * c, c2)
        self.m = bottlenecks(c, n, shortcut, g, k=3)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((self.m(a), b), 1))


@register("ELAN", width=("hidden", "c2", "inner"))
class ELAN(nn.Module):
    """Efficient layer aggregation of YOLOv7: two 1x1 from the input, `depth` 3x3 in series behind the second, 1x1 over
    the taps. Every second 3x3 is a tap, or each one where `dense`; the deepest comes first in the concatenation.

    hidden: width of the two 1x1; inner: width of the 3x3, `hidden` where not given.
    """

    def __init__(self, c1: int, hidden: int, c2: int, depth: int = 4, dense: bool = False, inner: int | None = None,
                 act: bool | str = True) -> None:
        super().__init__()
        inner = inner or hidden
        self.cv1 = Conv(c1, hidden, act=act)
        self.cv2 = Conv(c1, hidden, act=act)
        self.m = nn.ModuleList(Conv(inner if i else hidden, inner, 3, act=act) for i in range(depth))
        self.step = 1 if dense else 2
        taps = len(range(depth, 0, -self.step))
        self.cv3 = Conv(2 * hidden + taps * inner, c2, act=act)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(self.cv1(x), self.cv2(x))

    def refine(self, skip: Tensor, start: Tensor) -> Tensor:
        """Everything behind the two 1x1 units, for necks that compute those in a cheaper order."""
        series = [start]
        for conv in self.m:
            series.append(conv(series[-1]))
        return self.cv3(torch.cat((*series[:0:-self.step], start, skip), 1))


@register("ELANH", width=("hidden", "c2"))
class ELANH(ELAN):
    """The ELAN of YOLOv7 necks: 3x3 of half the width, all of them taps."""

    def __init__(self, c1: int, hidden: int, c2: int, depth: int = 4, act: bool | str = True) -> None:
        super().__init__(c1, hidden, c2, depth, dense=True, inner=hidden // 2, act=act)


@register("EELAN", width=("hidden", "c2"))
class EELAN(nn.Module):
    """Extended ELAN of YOLOv7-E6E: two complete ELANs of one input, summed."""

    def __init__(self, c1: int, hidden: int, c2: int, depth: int = 6) -> None:
        super().__init__()
        self.m = nn.ModuleList(ELAN(c1, hidden, c2, depth) for _ in range(2))
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        return self.m[0](x) + self.m[1](x)
