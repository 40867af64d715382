"""The residual networks of He et al. 2016 (arXiv 1512.03385, table 1) with 18, 34, 50, 101 or 152 layers, as rows: a
stem and four stages.

Modules have torchvision's names (`conv1`, `0.bn2`, `0.downsample.0`), and rows are called `stem`, `layer1` to `layer4`,
so that a classifier's state dict fits by name. As there, a bottleneck strides in its 3x3 convolution.

Legend: B images, c1 channels in, h, w pixels of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.conv import fold_batch_norm, with_bias
from models.registry import choose, register


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are constants: buffers that neither training nor EMA moves, as
    detectors with few images on a device use them (Mask R-CNN, RetinaNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


NORMS: dict[str, type[nn.Module]] = {"bn": nn.BatchNorm2d, "frozen": FrozenBatchNorm}


def norm_type(norm: str) -> type[nn.Module]:
    """The batch norm that `norm` names, with torch's constants (eps 1e-5, momentum 0.1). Raises `UserError` for another
    name."""
    return NORMS[choose("norm", norm, NORMS)]


def fuse_pair(parent: nn.Module, conv: str, norm: str) -> None:
    """Fold the child `norm` of a module into its child `conv`, for inference; nothing where that is done already."""
    if isinstance(getattr(parent, norm), (nn.BatchNorm2d, FrozenBatchNorm)):
        with torch.no_grad():
            unfused = getattr(parent, conv)
            setattr(parent, conv, with_bias(unfused, *fold_batch_norm(unfused, getattr(parent, norm))))
        setattr(parent, norm, nn.Identity())


def _conv(c1: int, c2: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias, padded to keep the size at stride 1, started as He et al. 2015 (eq. 14, by outputs)."""
    conv = nn.Conv2d(c1, c2, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


@register("ResNetStem", width="c2")
class ResNetStem(nn.Module):
    """Conv 7x7 with stride 2, batch norm, ReLU and 3x3 max pooling with stride 2. norm: bn, or frozen."""

    stride = 4

    def __init__(self, c1: int, c2: int = 64, norm: str = "bn") -> None:
        super().__init__()
        self.conv1 = _conv(c1, c2, 7, 2)
        self.bn1 = norm_type(norm)(c2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.out_channels = c2

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def fuse(self) -> None:
        """Fold the batch norm into the convolution."""
        fuse_pair(self, "conv1", "bn1")


class _Residual(nn.Module):
    """x or its projection + a branch of convolutions conv1, conv2, ..., each with its norm, ReLU between and behind."""

    expansion = 1

    def __init__(self, c1: int, shapes: list[tuple[int, int, int, int]], norm: type[nn.Module]) -> None:
        """shapes: (channels in, channels out, kernel, stride) of each convolution."""
        super().__init__()
        self.depth = len(shapes)
        for i, shape in enumerate(shapes, 1):
            self.add_module(f"conv{i}", _conv(*shape))
            self.add_module(f"bn{i}", norm(shape[1]))
        c2, stride = shapes[-1][1], max(shape[3] for shape in shapes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or c1 != c2:
            self.downsample = nn.Sequential(_conv(c1, c2, 1, stride), norm(c2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = self.relu(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    def fuse(self) -> None:
        """Fold every batch norm into its convolution."""
        for i in range(1, self.depth + 1):
            fuse_pair(self, f"conv{i}", f"bn{i}")
        if self.downsample is not None:
            fuse_pair(self.downsample, "0", "1")


class BasicBlock(_Residual):
    """Two 3x3 convolutions (ResNet-18, -34)."""

    def __init__(self, c1: int, planes: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__(c1, [(c1, planes, 3, stride), (planes, planes, 3, 1)], norm)


class Bottleneck(_Residual):
    """1x1, 3x3, 1x1, four times as wide at the end (ResNet-50, -101, -152)."""

    expansion = 4

    def __init__(self, c1: int, planes: int, stride: int, norm: type[nn.Module]) -> None:
        shapes = [(c1, planes, 1, 1), (planes, planes, 3, stride), (planes, planes * self.expansion, 1, 1)]
        super().__init__(c1, shapes, norm)


BLOCKS: dict[str, type[_Residual]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


@register("ResNetStage", width="planes", repeats="blocks")
class ResNetStage(nn.Sequential):
    """A series of residual blocks, the first with `stride`. block: basic (2 convolutions), or bottleneck (3, 4 * planes
    channels out). norm: bn, or frozen."""

    def __init__(self, c1: int, planes: int, stride: int = 1, block: str = "bottleneck", norm: str = "bn", *,
                 blocks: int = 1) -> None:
        kind = BLOCKS[choose("block", block, BLOCKS)]
        width = planes * kind.expansion
        super().__init__(*(kind(width if i else c1, planes, 1 if i else stride, norm_type(norm))
                           for i in range(blocks)))
        self.out_channels, self.stride = width, stride
