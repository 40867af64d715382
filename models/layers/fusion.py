"""The semantic fusion unit of ASSD (Yi, Wu and Metaxas 2019, section 3.2): deeper maps inform the finest one.

Legend: B images, h, w pixels of the finest map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.conv import with_bias
from models.registry import register


@register("SemanticFusion", width="hidden", multi_input=True)
class SemanticFusion(nn.Module):
    """Maps of several strides -> one of the size and width of the first: a 1x1 convolution of each to `hidden` channels
    (half the first's by default), enlarged bilinearly (corners aligned), joined, batch norm, 1x1 convolution, ReLU."""

    def __init__(self, channels: list[int], hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(1, channels[0] // 2)
        self.layers = nn.ModuleList(nn.Conv2d(c, hidden, 1) for c in channels)
        self.bn = nn.BatchNorm2d(hidden * len(channels))
        self.conv = nn.Conv2d(hidden * len(channels), channels[0], 1)
        self.out_channels = channels[0]

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Maps (B, c, ...), the finest first -> (B, c of the first, h, w)."""
        maps = [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]
        size = maps[0].shape[2:]
        maps[1:] = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps[1:]]
        return F.relu(self.conv(self.bn(torch.cat(maps, 1))), inplace=True)

    def fuse(self) -> None:
        """Fold the batch norm into the 1x1 convolution behind it, exact since that does not pad."""
        if isinstance(self.bn, nn.BatchNorm2d):
            with torch.no_grad():
                scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
                shift = self.bn.bias - self.bn.running_mean * scale
                weight = self.conv.weight * scale[:, None, None]
                bias = self.conv.bias + (self.conv.weight[:, :, 0, 0] * shift).sum(1)
                self.conv = with_bias(self.conv, weight, bias)
            self.bn = nn.Identity()
