"""The feature pyramid of Lin et al. 2017 (FPN, arXiv 1612.03144, section 3) and RetinaNet's levels above it, as rows.

Legend: B images, c channels, h, w pixels of a map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.registry import register


@register("FPNConv", width="c2")
class FPNConv(nn.Conv2d):
    """A convolution with bias and without norm or activation behind it: laterals (1x1), outputs (3x3), and P6 and P7
    (3x3 with stride 2). relu: of its input, as of P7's (Lin et al., Focal Loss, 2017, footnote 2).

    (B, c1, h, w) -> (B, c2, h/s, w/s), rounded up. It starts from the uniform distribution of variance 1 / fan-in.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, relu: bool = False) -> None:
        if k % 2 == 0:
            raise ValueError(f"kernel {k} is not odd")
        super().__init__(c1, c2, k, s, k // 2)
        self.relu = relu
        nn.init.kaiming_uniform_(self.weight, a=1)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu() if self.relu else x)


@register("TopDown", multi_input=True)
class TopDown(nn.Module):
    """A map and the next coarser one, of the same width: the coarser one enlarged to the first one's size by repeating
    pixels, and their sum."""

    def __init__(self, channels: list[int], *, strides: list[int]) -> None:
        super().__init__()
        if len(channels) != 2 or channels[0] != channels[1]:
            raise ValueError(f"adds a coarser map to one of its width, not maps of {' and '.join(map(str, channels))}")
        if strides[1] <= strides[0]:
            raise ValueError(f"inputs have strides {strides[0]:g} and {strides[1]:g}; the first must be the finer")
        self.out_channels = channels[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        fine, coarse = maps
        return fine + F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
