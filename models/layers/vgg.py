"""VGG-16 (Simonyan and Zisserman 2015) as SSD reads it (Liu et al. 2016, section 3), and SSD's other convolutions.

The two fully connected layers of the classifier are convolutions, fc6 and fc7, of a quarter of their outputs; the last
pooling keeps the size, and fc6 is dilated to make up for it.

Legend: B images, c1 channels in, h, w pixels of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.resnet import fuse_pair, norm_type
from models.registry import register

# By the index that a layer has in torchvision's `features` and, from 31 on, in amdegroot/ssd.pytorch's `vgg`: the width
# in units of the first one, of convolutions; every other index is a ReLU or a pooling.
_WIDTHS = {0: 1, 2: 1, 5: 2, 7: 2, 10: 4, 12: 4, 14: 4, 17: 8, 19: 8, 21: 8, 24: 8, 26: 8, 28: 8, 31: 16, 33: 16}
_POOLS = {4: {}, 9: {}, 16: {"ceil_mode": True}, 23: {}}  # 2x2 with stride 2
_LAST_POOL, _FC6, _END = 30, 31, 35  # 3x3 with stride 1; dilation 6


@register("VGG16", width="c")
class VGG16(nn.Module):
    """The layers `first` to `last` - 1 of reduced VGG-16, by torchvision's index: 0 to 22 end behind conv4_3, 23 to 34
    behind fc7. c: width of the first convolution, 64."""

    def __init__(self, c1: int, c: int = 64, first: int = 0, last: int = _END) -> None:
        super().__init__()
        if not 0 <= first < last <= _END:
            raise ValueError(f"layers {first} to {last} of 0 to {_END}: give a first one below the last")
        self.out_channels, self.stride = c1, 1
        for index in range(first, last):
            self.add_module(str(index), self._layer(index, c))

    def _layer(self, index: int, c: int) -> nn.Module:
        if index in _WIDTHS:
            c1, self.out_channels = self.out_channels, c * _WIDTHS[index]
            kernel, dilation = (1, 1) if index > _FC6 else (3, 6 if index == _FC6 else 1)
            conv = nn.Conv2d(c1, self.out_channels, kernel, 1, dilation * (kernel // 2), dilation)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            return conv
        if index in _POOLS:
            self.stride *= 2
            return nn.MaxPool2d(2, 2, **_POOLS[index])
        return nn.MaxPool2d(3, 1, 1) if index == _LAST_POOL else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


@register("L2Norm")
class L2Norm(nn.Module):
    """Every pixel's channels scaled to length 1, then times a learned factor per channel, `scale` at first (ParseNet,
    Liu et al. 2015, eq. 6)."""

    def __init__(self, c1: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((c1,), float(scale)))
        self.out_channels = c1

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True) + 1e-10  # (B, 1, h, w)
        return x / length.to(x.dtype) * self.weight[:, None, None].to(x.dtype)


@register("ConvReLU", width="c2")
class ConvReLU(nn.Module):
    """Convolution with bias, batch norm where `norm` says so (bn or frozen; none), ReLU: the layers that SSD and ASSD
    add to a backbone. p: by default what keeps the size at stride 1. Without norm it starts as SSD's: Xavier-uniform
    weights, zero bias."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, norm: str | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p)
        self.bn = nn.Identity() if norm is None else norm_type(norm)(c2)
        if norm is None:
            xavier(self.conv)
        self.out_channels, self.stride = c2, s

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self._norm(self.conv(x)), inplace=True)

    def _norm(self, x: Tensor) -> Tensor:
        """One value per channel, as a 1 x 1 map of one image gives, has no variance: it is normalised by the running
        statistics, where torch's layer raises an error."""
        if self.training and type(self.bn) is nn.BatchNorm2d and x.numel() == x.shape[1]:
            bn = self.bn
            return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return self.bn(x)

    def fuse(self) -> None:
        """Fold the batch norm into the convolution."""
        fuse_pair(self, "conv", "bn")


def xavier(conv: nn.Conv2d) -> None:
    """Xavier-uniform weights and zero bias, as SSD starts what it adds."""
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
