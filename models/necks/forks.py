"""Rows of the ssFPN and ASSN repositories' own model files, under the names of modules and weights that those use.

Our files put the same necks on any base in one row (`models.necks`), and faster; these are for files and checkpoints
from there. The builder imports this module beside the other layers, because it shares parts of the necks.

Legend: B images, C channels of a level, D levels along the scale axis, H, W pixels of the finest level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.conv import Conv, activation, batch_norm
from models.necks.gates import ChannelGate, SpatialGate
from models.necks.resample import crop
from models.necks.ssfpn import NormedConv3d
from models.registry import register


@register("Unsqueeze")
class Unsqueeze(nn.Module):
    """(B, C, H, W) -> (B, C, 1, H, W): a plane of the scale axis, to be joined by `Concat` with argument 2."""

    def __init__(self, c1: int, dimension: int = 2) -> None:
        super().__init__()
        if dimension not in (2, -3):
            raise ValueError(f"a plane of the scale axis is dimension 2, not {dimension}")
        self.out_channels = c1

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2)


@register("Conv3D")
class Conv3D(NormedConv3d):
    """3x3x3 convolution over a stack of levels, batch norm, LeakyReLU(0.01), mean over the scale axis: ssFPN's, which
    writes the channels read and given and nothing else.
    """

    def __init__(self, c1: int, in_c: int, out_c: int) -> None:
        super().__init__()
        self._build(c1, in_c, out_c, 3, 1, "LeakyReLU(0.01)")

    def _build(self, c1: int, in_c: int, out_c: int, k: int, s: int, act: bool | str) -> None:
        if in_c != c1:
            raise ValueError(f"is written for {in_c} channels and reads {c1}")
        if k % 2 == 0:
            raise ValueError(f"kernel {k} is not odd")
        self.conv3d = nn.Conv3d(c1, out_c, k, s, k // 2)
        self.batch3d = nn.BatchNorm3d(out_c, eps=1e-3)
        self.act = activation(act)
        self.out_channels, self.stride = out_c, s

    def forward(self, stack: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, out_c, H/s, W/s)."""
        if stack.dim() != 5:
            raise ValueError(f"Conv3D reads a stack of levels, made by Unsqueeze and Concat [2], not {stack.dim()}-D")
        return self.act(self.batch3d(self.conv3d(stack))).mean(2)


# Registered behind ssFPN's, which takes two arguments; the activation is what the forks differ in.
@register("Conv3D")
class SizedConv3D(Conv3D):
    """The same in the YOLOv7 fork of ASSN: kernel and stride are written, and the activation is SiLU.

    `[out_c, k, s]`, without the channels read, is understood as well.
    """

    def __init__(self, c1: int, in_c: int, out_c: int, k: int, s: int = 1) -> None:
        nn.Module.__init__(self)
        if out_c in (1, 3, 5, 7):  # a kernel stands where the channels would
            in_c, out_c, k, s = c1, in_c, out_c, k
        self._build(c1, in_c, out_c, k, s, True)


class _LevelGate(nn.Module):
    """What both gates share: levels of one resolution, finest first, to be weighed and joined; those that an upsampling
    row made longer than the first, because its size is no multiple of theirs, are cropped to it.

    strides: of the inputs in pixels. Raises ValueError for a single map and for maps of different resolution.
    """

    def __init__(self, widths: list[int], strides: list[int]) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError("weighs two or more maps by a gate read from the first; one is given")
        if len(set(strides)) > 1:
            raise ValueError(f"inputs have strides {' and '.join(f'{s:g}' for s in strides)}")
        self.out_channels = sum(widths)


@register("CBAM", multi_input=True)
class CBAM(_LevelGate):
    """Gate of ASSN's YOLOv7 fork: all maps joined, each raw, times a spatial mask read from the first after its
    channel gate. The written `gate_channels` has no meaning there either: the width is that of the first map.
    """

    def __init__(self, widths: list[int], gate_channels: int | None = None, reduction_ratio: int = 16, *,
                 strides: list[int]) -> None:
        super().__init__(widths, strides)
        self.ChannelGate = ChannelGate(widths[0], reduction_ratio)
        self.SpatialGate = SpatialGate()

    def forward(self, levels: list[Tensor]) -> Tensor:
        p3 = levels[0]
        joined = torch.cat([crop(x, p3.shape[2:]) for x in levels], 1)
        return joined * self.SpatialGate(p3 * self.ChannelGate(p3))


class SpatialMask(nn.Module):
    """(B, C, H, W) -> (B, 1, H, W): `SpatialGate` without a bias, under the names of the YOLOv8 fork."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn1 = batch_norm(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.cv1(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1))).sigmoid()


@register("CBAMP3", multi_input=True)
class CBAMP3(_LevelGate):
    """Gate of ASSN's YOLOv8 fork: as `CBAM`, but the first map enters the concatenation weighed by its channel gate.

    A first argument other than a kernel, 3 or 7, is a width, which is that of the first map.
    """

    def __init__(self, widths: list[int], channels: int | None = None, kernel_size: int = 7, *,
                 strides: list[int]) -> None:
        super().__init__(widths, strides)
        kernel = channels if channels in (3, 7) else kernel_size
        if kernel not in (3, 7):
            raise ValueError(f"kernel {kernel} is not 3 or 7")
        self.channel_attention = ChannelGate(widths[0])
        self.spatial_attention = SpatialMask(kernel)

    def forward(self, levels: list[Tensor]) -> Tensor:
        p3 = levels[0] * self.channel_attention(levels[0])
        return torch.cat((p3, *(crop(x, p3.shape[2:]) for x in levels[1:])), 1) * self.spatial_attention(p3)


@register("ConvP3", multi_input=True)
class ConvP3(Conv):
    """Convolution unit of ASSN's YOLOv8 fork, whose width follows the finest level's: [row, ratio, k, s] gives `ratio`
    times the channels of the row numbered `row`. Row and ratio may change places; with two inputs the second, which is
    only asked for its channels, is the row, and [ratio, k, s] is written.

    rows: channels of all rows before this one, which the builder supplies.
    """

    def __init__(self, widths: list[int], *sizes: float, rows: Sequence[int] = ()) -> None:
        numbers = [*sizes]
        if len(widths) == 1 and len(numbers) > 1:
            row = max(numbers[:2])
            numbers.remove(row)
            if row not in range(2, len(rows)):
                raise ValueError(f"reads the channels of row {row:g}, which is none from 2 to {len(rows) - 1}")
            reference = rows[int(row)]
        elif len(widths) == 2 and numbers:
            reference = widths[1]
        else:
            raise ValueError("takes [row, ratio, k, s] and one map")
        ratio, k, s = (*numbers, 1, 1)[:3]
        if len(numbers) > 3 or not 0 < ratio <= 1:
            raise ValueError(f"takes [row, ratio, k, s] with a ratio above 0 and up to 1, not {list(sizes)}")
        super().__init__(widths[0], int(reference * ratio), int(k), int(s))

    def forward(self, levels: list[Tensor]) -> Tensor:
        return super().forward(levels[0])
