"""The path aggregation of Salience DETR over the encoder's maps, of RepVGG blocks (RepVGGPluXNetwork of its code).

Legend: B images, C width, h, w cells of a level. Names of parameters are those of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.conv import fold_batch_norm

GROUPS = 4


def unit(c1: int, c2: int, k: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm, SiLU unless `act` is False."""
    conv = nn.Conv2d(c1, c2, k, stride, k // 2, groups=groups, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(c2), *([nn.SiLU()] if act else []))


class ContextGate(nn.Module):
    """Channels weighed by what the whole map shows: a softmax over pixels pools, two 1x1 convolutions gate."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_mask = nn.Conv2d(width, 1, 1)
        hidden = max(width // reduction, 1)
        self.se_module = nn.Sequential(nn.Conv2d(width, hidden, 1, bias=False), nn.ReLU(),
                                       nn.Conv2d(hidden, width, 1, bias=False), nn.Sigmoid())
        for conv in (self.conv_mask, self.se_module[0], self.se_module[2]):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.conv_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        share = self.conv_mask(x).flatten(2).softmax(-1)  # (B, 1, h*w)
        context = (x.flatten(2) @ share.transpose(1, 2)).unsqueeze(-1)  # (B, C, 1, 1)
        return x * self.se_module(context)


class RepBlock(nn.Module):
    """A grouped 3x3 and a grouped 1x1 side by side, SiLU, gate, and what came in; the two fold into one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = unit(width, width, 3, groups=GROUPS, act=False)
        self.conv2 = unit(width, width, 1, groups=GROUPS, act=False)
        self.se_module = ContextGate(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x) + self.conv2(x) if isinstance(self.conv2, nn.Sequential) else self.conv1(x)
        return self.se_module(F.silu(y)) + x

    def fuse(self) -> None:
        """Fold both branches into one convolution."""
        if not isinstance(self.conv2, nn.Sequential):
            return
        (w3, b3), (w1, b1) = (fold_batch_norm(branch[0], branch[1]) for branch in (self.conv1, self.conv2))
        conv = self.conv1[0]
        both = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, groups=GROUPS).to(w3)
        with torch.no_grad():
            both.weight.copy_(w3 + F.pad(w1, (1, 1, 1, 1)))
            both.bias.copy_(b3 + b1)
        self.conv1, self.conv2 = both.requires_grad_(False), nn.Identity()


class CspBlock(nn.Module):
    """Three `RepBlock`s beside a 1x1, summed."""

    def __init__(self, c1: int, c2: int, repeats: int = 3) -> None:
        super().__init__()
        self.conv1 = unit(c1, c2)
        self.conv2 = unit(c1, c2)
        self.bottlenecks = nn.Sequential(*(RepBlock(c2) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        return self.bottlenecks(self.conv1(x)) + self.conv2(x)


class PathAggregation(nn.Module):
    """Maps (B, C, h, w) of all levels, finest first, -> the same, top-down and then bottom-up.

    Part i of each list joins levels i and i + 1.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        steps = range(levels - 1)
        self.lateral_convs = nn.ModuleList(unit(width, width) for _ in steps)
        self.layer_blocks = nn.ModuleList(CspBlock(2 * width, width) for _ in steps)
        self.downsample_blocks = nn.ModuleList(unit(width, width, 3, 2) for _ in steps)
        self.pan_blocks = nn.ModuleList(CspBlock(2 * width, width) for _ in steps)

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        inner = [pyramid[-1]]
        parts = zip(pyramid[-2::-1], self.lateral_convs[::-1], self.layer_blocks[::-1], strict=True)
        for lower, lateral, block in parts:
            inner[0] = lateral(inner[0])
            up = F.interpolate(inner[0], size=lower.shape[2:], mode="nearest")
            inner.insert(0, block(torch.cat((up, lower), 1)))
        found = [inner[0]]
        for level, down, block in zip(inner[1:], self.downsample_blocks, self.pan_blocks, strict=True):
            found.append(block(torch.cat((down(found[-1]), level), 1)))
        return found
