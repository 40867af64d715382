"""How the kin of DETR bring a backbone's maps to one width: 1x1 convolutions with group norm, sums along the levels."""

from math import gcd

import torch.nn.functional as F
from torch import Tensor, nn

from models.registry import choose, register


@register("GroupConv", width="c2")
class GroupConv(nn.Module):
    """Convolution without bias, then group norm. groups: of the norm, fewer where c2 is no
    multiple of them or gives each a single channel, which a map of one cell leaves without a variance."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, groups: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.gn = nn.GroupNorm(gcd(groups, c2 // 2), c2)
        self.out_channels, self.stride = c2, s
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.gn(self.conv(x))


@register("PreFPN", width="c2", multi_input=True)
class PreFPN(nn.Module):
    """Maps of a backbone, finest first, -> as many of c2 channels: 1x1 convolutions, sums along the levels, and one 1x1
    convolution that all levels share. It gives several maps.

    order: "fine_to_coarse", each level adds the finer one's sum, shrunk, as Scale-Focused DETR's code does; or
    "coarse_to_fine", the coarser one's, enlarged, as a feature pyramid does (Lin et al. 2017).
    """

    def __init__(self, channels: list[int], c2: int = 256, order: str = "fine_to_coarse", *,
                 strides: list[int]) -> None:
        super().__init__()
        self.reverse = choose("order", order, ("fine_to_coarse", "coarse_to_fine")) == "coarse_to_fine"
        self.up_layers = nn.ModuleList(nn.Conv2d(c, c2, 1) for c in channels)
        self.lateral = nn.Conv2d(c2, c2, 1)
        self.out_channels, self.stride = [c2] * len(channels), [s / strides[0] for s in strides]

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        maps = [layer(x) for layer, x in zip(self.up_layers, pyramid, strict=True)]
        order = list(range(len(maps)))[::-1 if self.reverse else 1]
        for before, level in zip(order, order[1:], strict=False):
            shape = maps[level].shape[2:]
            maps[level] = maps[level] + F.interpolate(maps[before], size=shape, mode="bilinear", align_corners=True)
        return [self.lateral(x) for x in maps]
