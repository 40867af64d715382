"""The gate of ASSN: attention by channel and by pixel, computed from the finest level (after CBAM, Woo et al. 2018).

Legend: B images, C channels of the finest level, H, W its pixels.
"""

import torch
from torch import Tensor, nn

from models.layers.conv import batch_norm


class ChannelGate(nn.Module):
    """(B, C, H, W) -> (B, C, 1, 1) in (0, 2): g(mean) + g(max), the sigmoid inside g as in both published forks."""

    def __init__(self, c: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(c // reduction, 1)
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(c, hidden), nn.SiLU(), nn.Linear(hidden, c), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]


class SpatialGate(nn.Module):
    """(B, C, H, W) -> (B, 1, H, W) in (0, 1): 7x7 convolution over mean and max of channels, batch norm, sigmoid."""

    def __init__(self, kernel: int = 7, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=bias), batch_norm(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()


class ScaleGate(nn.Module):
    """The two gates in series, read from the finest level.

    Returns the spatial mask (B, 1, H, W), which weighs every level, and the finest map as it enters the concatenation:
    raw where `kind` is "spatial" (YOLOv7 fork, whose channel gate shapes the mask alone), weighed by the channel gate
    where it is "channel_spatial" (YOLOv8 fork, and the paper's figure).
    """

    def __init__(self, c: int, kind: str = "channel_spatial", bias: bool = False) -> None:
        super().__init__()
        if kind not in ("spatial", "channel_spatial"):
            raise ValueError(f"gate {kind!r} is not one of spatial, channel_spatial")
        self.keeps_channel_gate = kind == "channel_spatial"
        self.channel, self.spatial = ChannelGate(c), SpatialGate(bias=bias)

    def forward(self, p3: Tensor) -> tuple[Tensor, Tensor]:
        gated = p3 * self.channel(p3)
        return self.spatial(gated), gated if self.keeps_channel_gate else p3
