"""ssFPN, the scale-sequence neck (Park et al. 2022): a 3-D convolution over the levels stacked as a third axis.

Legend: B images, C width, D levels along the scale axis, H, W pixels of the finest level.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.layers.conv import Conv, activation, fold_batch_norm
from models.necks.assn import scale_factors
from models.necks.resample import check_pyramid, conv3x3_enlarged
from models.necks.start import zero_affine
from models.registry import register


class NormedConv3d(nn.Module):
    """What a 3-D unit of these code bases holds, under the names of their checkpoints: conv3d, batch3d, act."""

    conv3d: nn.Conv3d
    batch3d: nn.Module

    def fuse(self) -> None:
        """Fold the batch norm into the convolution."""
        if isinstance(self.batch3d, nn.BatchNorm3d):
            with torch.no_grad():
                weight, bias = fold_batch_norm(self.conv3d, self.batch3d)
                self.conv3d.weight.copy_(weight)
                self.conv3d.bias.copy_(bias)
            self.conv3d.requires_grad_(False)
            self.batch3d = nn.Identity()


class ScaleConv(NormedConv3d):
    """3x3x3 convolution over a stack of levels, batch norm, activation, mean over the scale axis.

    A 3-D convolution over D planes is a sum of 2-D ones, two or three per plane, so each level is convolved at its own
    resolution, once for all planes that it reaches, and the stack is never made.
    """

    def __init__(self, c1: int, c2: int, act: bool | str = "LeakyReLU(0.01)") -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(c1, c2, 3, padding=1)
        self.batch3d = nn.BatchNorm3d(c2, eps=1e-3)
        self.act = activation(act)

    def forward(self, levels: list[Tensor], factors: list[int]) -> Tensor:
        """Levels (B, C, H/f, W/f), the finest first, then in the order of the scale axis, with their factors f ->
        (B, C, H, W)."""
        planes: list[list[Tensor]] = [[] for _ in levels]
        for reached, parts in self.parts(levels, factors):
            for d, y in zip(reached, parts, strict=True):
                planes[d].append(y)
        stack = torch.stack([sum(parts[1:], parts[0]) for parts in planes], 2)  # (B, C, D, H, W)
        return self.act(self.batch3d(stack + self.conv3d.bias[:, None, None, None])).mean(2)

    def parts(self, levels: list[Tensor], factors: list[int]) -> Iterator[tuple[range, tuple[Tensor, ...]]]:
        """Of each level the planes that it reaches, and what it adds to them: (B, C, H, W) each."""
        depth, size = len(levels), levels[0].shape[2:]
        for i, (x, factor) in enumerate(zip(levels, factors, strict=True)):
            reached = range(max(i - 1, 0), min(i + 2, depth))
            # Of each plane d, the tap that sees level i.
            weight = torch.cat([self.conv3d.weight[:, :, i - d + 1] for d in reached])  # (planes*C, C, 3, 3)
            yield reached, conv3x3_enlarged(x, weight, factor, size).chunk(len(reached), 1)


@register("SSFPN", multi_input=True, neck="ssfpn")
class SSFPN(nn.Module):
    """Levels, finest first -> the scale-sequence map beside the finest level, or their sum where `merge` is "add".

    The order of the levels is the order along the scale axis; the published P6 models use P3, P6, P5, P4.
    channels: C, by default the width of the finest level. act: LeakyReLU(0.01) as in ssFPN; the YOLOv7 fork of ASSN
    uses SiLU. coarse_first: the 1x1 units are listed from the coarsest level on, as in the checkpoints of ssFPN; it
    changes their order in the state, not their names.
    """

    def __init__(self, widths: list[int], channels: int | None = None, act: bool | str = "LeakyReLU(0.01)",
                 merge: str = "concat", coarse_first: bool = False, *, strides: list[int]) -> None:
        super().__init__()
        finest, c = widths[0], channels or widths[0]
        if merge not in ("add", "concat"):
            raise ValueError(f"merge {merge!r} is not one of add, concat")
        if merge == "add" and c != finest:
            raise ValueError(f"merge 'add' needs channels {finest}, the width of the finest level, not {c}")
        self.factors = scale_factors(strides)
        order = sorted(range(len(widths)), key=lambda i: -self.factors[i] if coarse_first else i)
        self.reduce = nn.ModuleDict({str(i): nn.Identity() if i == 0 and widths[i] == c else Conv(widths[i], c)
                                     for i in order})
        self.scale = ScaleConv(c, c, act)
        self.concat = merge == "concat"
        self.out_channels = finest + c if self.concat else finest

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        check_pyramid("SSFPN", pyramid, self.factors)
        sequence = self.scale(self._levels(pyramid), self.factors)
        return torch.cat((sequence, pyramid[0]), 1) if self.concat else sequence + pyramid[0]

    def start_as_identity(self) -> slice:
        """Make the scale-sequence map 0 where it is added; see `models.necks.start`."""
        sequence = self.scale.conv3d.out_channels
        if not self.concat:
            zero_affine(self.scale.batch3d, self.scale.act, "SSFPN")
            return slice(0, sequence)
        return slice(sequence, self.out_channels)

    def contributions(self, pyramid: list[Tensor]) -> list[Tensor]:
        """What each level adds at each pixel of the finest: (B, H, W) each, the length over planes and channels of its
        part of the 3-D convolution."""
        return [torch.cat(parts, 1).norm(dim=1) for _, parts in self.scale.parts(self._levels(pyramid), self.factors)]

    def _levels(self, pyramid: list[Tensor]) -> list[Tensor]:
        return [self.reduce[str(i)](x) for i, x in enumerate(pyramid)]


@register("FlatSSFPN", multi_input=True)
class FlatSSFPN(nn.Module):
    """The unofficial ssFPN for YOLOv5 (BearCooike/ssFPN-pytorch): levels enlarged and joined over channels, one 3-D
    convolution of kernel (1, 3, 3) padded on all three axes, batch norm, LeakyReLU(0.01), mean over the three planes.

    Two of the planes see nothing but padding; they count in the batch norm and in the mean. Nothing is convolved over
    scale, unlike in the paper. channels: of the new map, by default the width of the finest level. merge: "replace"
    the finest level, or "concat" or "add" to it; where the original puts the map is not stated.
    """

    def __init__(self, widths: list[int], channels: int | None = None, act: bool | str = "LeakyReLU(0.01)",
                 merge: str = "concat", norm: bool = True, *, strides: list[int]) -> None:
        super().__init__()
        c = channels or widths[0]
        if merge not in ("replace", "concat", "add"):
            raise ValueError(f"merge {merge!r} is not one of replace, concat, add")
        if merge == "add" and c != widths[0]:
            raise ValueError(f"merge 'add' needs channels {widths[0]}, the width of the finest level, not {c}")
        self.factors, self.merge = scale_factors(strides), merge
        self.conv = nn.Conv3d(sum(widths), c, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn = nn.BatchNorm3d(c) if norm else nn.Identity()
        self.act = activation(act)
        self.out_channels = c + widths[0] if merge == "concat" else c

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        check_pyramid("FlatSSFPN", pyramid, self.factors)
        parts = self._parts(pyramid)
        seen = sum(parts[1:], parts[0])  # (B, C, H, W)
        planes = torch.stack((torch.zeros_like(seen), seen, torch.zeros_like(seen)), 2)  # (B, C, 3, H, W)
        flat = self.act(self.bn(planes)).mean(2)
        if self.merge == "concat":
            return torch.cat((flat, pyramid[0]), 1)
        return flat + pyramid[0] if self.merge == "add" else flat

    def contributions(self, pyramid: list[Tensor]) -> list[Tensor]:
        """What each level adds at each pixel of the finest: (B, H, W) each, the length over channels of its part of the
        convolution."""
        return [part.norm(dim=1) for part in self._parts(pyramid)]

    def _parts(self, pyramid: list[Tensor]) -> list[Tensor]:
        weights = self.conv.weight[:, :, 0].split([x.shape[1] for x in pyramid], 1)
        size = pyramid[0].shape[2:]
        return [conv3x3_enlarged(x, w, f, size) for x, w, f in zip(pyramid, weights, self.factors, strict=True)]
