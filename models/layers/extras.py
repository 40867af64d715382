"""Blocks of model files of YOLOv5, YOLOv7 and YOLOv8 in other repositories, which ours do without. Parts
bear the names of the original checkpoints.

Legend: B images, c1 channels in, c2 channels out, c hidden channels, h, w pixels of a map, n repeats, e hidden width
over c2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.blocks import C3, BottleneckCSPB, BottleneckCSPC
from models.layers.conv import Conv, DWConv
from models.layers.pooling import SPP, SPPCSPC
from models.registry import register


@register("Res", width="c2")
class Res(nn.Module):
    """Bottleneck of ResNet (1x1, 3x3, 1x1), plus the input where `shortcut` and the widths allow."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, c)
        self.cv2 = Conv(c, c, 3, g=g)
        self.cv3 = Conv(c, c2)
        self.add = shortcut and c1 == c2
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv3(self.cv2(self.cv1(x)))
        return x + y if self.add else y


@register("ResX", width="c2")
class ResX(Res):
    """`Res` with 32 groups, as in ResNeXt."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 32, e: float = 0.5) -> None:
        super().__init__(c1, c2, shortcut, g, e)


def residuals(c: int, n: int, shortcut: bool, g: int, e: float) -> nn.Sequential:
    """n ResNet bottlenecks of equal width outside."""
    return nn.Sequential(*(Res(c, c, shortcut, g, e) for _ in range(n)))


@register("ResCSPA", width="c2", repeats="n")
class ResCSPA(C3):
    """`BottleneckCSPA` around ResNet bottlenecks."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        self.m = residuals(int(c2 * e), n, shortcut, g, 0.5)


@register("ResCSPB", width="c2", repeats="n")
class ResCSPB(BottleneckCSPB):
    """`BottleneckCSPB` around ResNet bottlenecks."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        self.m = residuals(c2, n, shortcut, g, 0.5)


@register("ResCSPC", width="c2", repeats="n")
class ResCSPC(BottleneckCSPC):
    """`BottleneckCSPC` around ResNet bottlenecks: the backbone of r50-csp."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        self.m = residuals(int(c2 * e), n, shortcut, g, 0.5)


@register("ResXCSPA", width="c2", repeats="n")
class ResXCSPA(C3):
    """`BottleneckCSPA` around ResNeXt bottlenecks of full inner width."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 32, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, 1, e, n=0)
        self.m = residuals(int(c2 * e), n, shortcut, g, 1.0)


@register("ResXCSPB", width="c2", repeats="n")
class ResXCSPB(BottleneckCSPB):
    """`BottleneckCSPB` around ResNeXt bottlenecks of full inner width."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 32, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, 1, e, n=0)
        self.m = residuals(c2, n, shortcut, g, 1.0)


@register("ResXCSPC", width="c2", repeats="n")
class ResXCSPC(BottleneckCSPC):
    """`BottleneckCSPC` around ResNeXt bottlenecks of full inner width: the backbone of x50-csp."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 32, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, 1, e, n=0)
        self.m = residuals(int(c2 * e), n, shortcut, g, 1.0)


@register("Stem", width="c2")
class Stem(nn.Module):
    """Stride 4: a strided 3x3, then a strided 3x3 behind a 1x1 beside pooling (r50-csp, x50-csp)."""

    stride = 4

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        c = c2 // 2
        self.cv1 = Conv(c1, c, 3, 2)
        self.cv2 = Conv(c, c)
        self.cv3 = Conv(c, c, 3, 2)
        self.pool = nn.MaxPool2d(2, 2)
        self.cv4 = Conv(2 * c, c2)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv4(torch.cat((self.cv3(self.cv2(x)), self.pool(x)), 1))


@register("GhostConv", width="c2")
class GhostConv(nn.Module):
    """GhostNet's unit (Han et al. 2020): half the channels by a convolution, half by a depth-wise 5x5 of those."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool | str = True) -> None:
        super().__init__()
        c = c2 // 2
        self.cv1 = Conv(c1, c, k, s, None, g, act=act)
        self.cv2 = Conv(c, c, 5, 1, None, c, act=act)
        self.out_channels, self.stride = 2 * c, s

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


@register("GhostBottleneck", "Ghost", width="c2")
class GhostBottleneck(nn.Module):
    """Two ghost units, a depth-wise one between them where the stride is 2, plus the input."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        if s not in (1, 2) or (s == 1 and c1 != c2):
            raise ValueError(f"cannot add its input of {c1} channels to {c2} channels at stride {s}")
        c = c2 // 2
        between = DWConv(c, c, k, s, act=False) if s == 2 else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, c), between, GhostConv(c, c2, act=False))
        self.shortcut = nn.Identity()
        if s == 2:
            self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))
        self.out_channels, self.stride = c2, s

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


@register("C3Ghost", width="c2", repeats="n")
class C3Ghost(C3):
    """`C3` around ghost bottlenecks."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        c = int(c2 * e)
        self.m = nn.Sequential(*(GhostBottleneck(c, c) for _ in range(n)))


@register("CrossConv", width="c2")
class CrossConv(nn.Module):
    """1 x k then k x 1, plus the input where `shortcut` and the widths allow."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0,
                 shortcut: bool = False) -> None:
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, c, (1, k), (1, s))
        self.cv2 = Conv(c, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2
        self.out_channels, self.stride = c2, s

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register("C3x", width="c2", repeats="n")
class C3x(C3):
    """`C3` around cross convolutions."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        c = int(c2 * e)
        self.m = nn.Sequential(*(CrossConv(c, c, 3, 1, g, 1.0, shortcut) for _ in range(n)))


@register("C3SPP", width="c2", repeats="n")
class C3SPP(C3):
    """`C3` around a spatial pyramid pooling; repeats mean nothing, as in the original."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13), shortcut: bool = True, g: int = 1,
                 e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        c = int(c2 * e)
        self.m = SPP(c, c, k)


class AttentionLayer(nn.Module):
    """Transformer layer without norms: attention over pixels and two linear maps, each plus its input."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(c, heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(h*w, B, c) -> the same."""
        x = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)[0] + x
        return self.fc2(self.fc1(x)) + x


@register("TransformerBlock", width="c2")
class TransformerBlock(nn.Module):
    """Transformer layers over the pixels of a map, with a learned position: a linear map of the input, added."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(AttentionLayer(c2, num_heads) for _ in range(num_layers)))
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        pixels = x.flatten(2).permute(2, 0, 1)  # (h*w, B, c2)
        return self.tr(pixels + self.linear(pixels)).permute(1, 2, 0).reshape(x.shape)


@register("C3TR", width="c2", repeats="n")
class C3TR(C3):
    """`C3` around a transformer block of four heads; repeats are its layers."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, *, n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, n=0)
        c = int(c2 * e)
        self.m = TransformerBlock(c, c, 4, n)


@register("C1", width="c2", repeats="n")
class C1(nn.Module):
    """A 1x1 and n 3x3 in series, plus what the 1x1 gave."""

    def __init__(self, c1: int, c2: int, *, n: int = 1) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.m = nn.Sequential(*(Conv(c2, c2, 3) for _ in range(n)))
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.m(x) + x


@register("SPPFCSPC", width="c2", repeats="n")
class SPPFCSPC(SPPCSPC):
    """`SPPCSPC` by three poolings k in series, equal to windows k, 2k-1, 3k-2 side by side."""

    def __init__(self, c1: int, c2: int, shortcut: bool = False, g: int = 1, e: float = 0.5, k: int = 5, *,
                 n: int = 1) -> None:
        super().__init__(c1, c2, shortcut, g, e, (k, 2 * k - 1, 3 * k - 2), n=n)


class _Scaled(nn.Module):
    """What both robust units share: a learned factor per channel."""

    def _scale(self, c2: int, initial: float) -> None:
        self.gamma = nn.Parameter(torch.full((c2,), initial))
        self.out_channels = c2

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]


@register("RobustConv", width="c2")
class RobustConv(_Scaled):
    """YOLOv7's robust unit: a wide depth-wise unit, a plain 1x1, a factor per channel."""

    def __init__(self, c1: int, c2: int, k: int = 7, s: int = 1, p: int | None = None, g: int = 1,
                 act: bool | str = True, layer_scale_init_value: float = 1e-6) -> None:
        super().__init__()
        self._scale(c2, layer_scale_init_value)
        self.conv_dw = Conv(c1, c1, k, s, p, c1, act=act)
        self.conv1x1 = nn.Conv2d(c1, c2, 1)
        self.stride = s

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.conv1x1(self.conv_dw(x)))


@register("RobustConv2", width="c2")
class RobustConv2(_Scaled):
    """YOLOv7's robust unit at low resolution: a strided depth-wise unit, a transposed convolution back."""

    def __init__(self, c1: int, c2: int, k: int = 7, s: int = 4, p: int | None = None, g: int = 1,
                 act: bool | str = True, layer_scale_init_value: float = 1e-6) -> None:
        super().__init__()
        self._scale(c2, layer_scale_init_value)
        self.conv_strided = Conv(c1, c1, k, s, p, c1, act=act)
        self.conv_deconv = nn.ConvTranspose2d(c1, c2, s, s)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.conv_deconv(self.conv_strided(x)))


@register("CBAM")
class ConvBlockAttention(nn.Module):
    """CBAM on one map (Woo et al. 2018, Eq. 1 to 3): x times a channel gate, then times a spatial gate.

    `channels` is written by model files of other repositories; the width is that of the map. `kernel_size` of the
    spatial gate is odd; the channel gate's hidden width is 1/16.
    """

    def __init__(self, c1: int, channels: int | None = None, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is not odd")
        hidden = max(c1 // 16, 1)
        self.channel = nn.Sequential(nn.Conv2d(c1, hidden, 1, bias=False), nn.ReLU(inplace=True),
                                     nn.Conv2d(hidden, c1, 1, bias=False))
        self.spatial = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.out_channels = c1

    def forward(self, x: Tensor) -> Tensor:
        mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * (self.channel(mean) + self.channel(most)).sigmoid()  # (B, c1, h, w)
        return x * self.spatial(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()
