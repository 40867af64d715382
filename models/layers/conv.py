"""The convolution unit and its relatives: convolution, batch norm, activation, and how they fold into one convolution.

Legend: B images, c1 channels in, c2 channels out, h, w pixels of a map.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.registry import register

ACTIVATIONS: dict[str, type[nn.Module]] = {cls.__name__.lower(): cls for cls in (
    nn.SiLU, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.GELU, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Identity)}

_default_activation: ContextVar[str] = ContextVar("default_activation", default="SiLU")


@contextmanager
def default_activation(name: str) -> Iterator[None]:
    """Within this block, units built with `act=True` get the activation `name`: a model file's `activation:` key."""
    token = _default_activation.set(name)
    try:
        yield
    finally:
        _default_activation.reset(token)


def activation(act: bool | str | None | nn.Module) -> nn.Module:
    """True: the model's default; False or None: identity; or a text such as `Mish` or `nn.LeakyReLU(0.1)`.

    The text is read as a name with literal arguments, never evaluated. Raises ValueError for any other text.
    """
    if isinstance(act, nn.Module):
        return act
    if act is None or act is False:
        return nn.Identity()
    text = _default_activation.get() if act is True else str(act)
    try:
        node = ast.parse(text, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id  # type: ignore[attr-defined]
        args = [ast.literal_eval(a) for a in call.args]
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return ACTIVATIONS[name.lower()](*args, **options)
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError):
        known = ", ".join(cls.__name__ for cls in ACTIVATIONS.values())
        raise ValueError(f"activation {text!r} is not one of {known}, with literal arguments") from None


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the constants of every YOLO since v3 (eps 1e-3, momentum 0.03)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def fold_batch_norm(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that equals `norm(conv(x))` in evaluation; 2-D and 3-D alike."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (c2,)
    weight = conv.weight * scale.reshape(-1, *[1] * (conv.weight.dim() - 1))
    bias = 0 if conv.bias is None else conv.bias
    return weight.detach(), (norm.bias + (bias - norm.running_mean) * scale).detach()


def with_bias(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry as `conv` with the given weight and bias, for inference."""
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                       conv.groups, bias=True, device=weight.device, dtype=weight.dtype).requires_grad_(False)
    folded.weight.copy_(weight)
    folded.bias.copy_(bias)
    return folded.train(conv.training)


def same_padding(kernel: int | tuple[int, int], dilation: int = 1) -> int | tuple[int, int]:
    """Padding that keeps the size of a map at stride 1, for odd kernels."""
    if isinstance(kernel, int):
        return dilation * (kernel - 1) // 2 if dilation > 1 else kernel // 2
    return tuple(same_padding(k, dilation) for k in kernel)  # type: ignore[return-value,misc]


@register("Conv", width="c2")
class Conv(nn.Module):
    """Convolution without bias, batch norm, activation.

    The sixth row argument of YOLOv5 and YOLOv7 files is the activation, of YOLOv8 files the dilation: a number is read
    as dilation, anything else as activation.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1,
                 d: int | bool | str | nn.Module = 1, act: bool | str | nn.Module = True) -> None:
        super().__init__()
        if isinstance(d, bool) or not isinstance(d, int):
            d, act = 1, d
        kernel = tuple(k) if isinstance(k, list) else k
        self.conv = nn.Conv2d(c1, c2, kernel, s, same_padding(kernel, d) if p is None else p, d, g, bias=False)
        self.bn = batch_norm(c2)
        self.act = activation(act)
        self.out_channels, self.stride = c2, s

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def finish(self, y: Tensor) -> Tensor:
        """What follows the products of the convolution, for necks that compute those in a cheaper order."""
        if self.conv.bias is not None:  # fused
            y = y + self.conv.bias[:, None, None]
        return self.act(self.bn(y))

    def fuse(self) -> None:
        """Fold the batch norm into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            with torch.no_grad():
                self.conv = with_bias(self.conv, *fold_batch_norm(self.conv, self.bn))
            self.bn = nn.Identity()


@register("Down", width="c2")
class Down(Conv):
    """The unit that halves a map: 3x3, stride 2. It takes the same arguments as `DownC`."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__(c1, c2, 3, 2)


@register("DWConv", width="c2")
class DWConv(Conv):
    """Depth-wise unit: as many groups as both widths allow."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int | bool | str = 1,
                 act: bool | str | nn.Module = True) -> None:
        super().__init__(c1, c2, k, s, None, gcd(c1, c2), d, act)


@register("RepConv", width="c2")
class RepConv(nn.Module):
    """RepVGG unit (Ding et al. 2021) without activation between its branches: 3x3, 1x1 and, where possible, identity,
    each with its batch norm, summed; one 3x3 convolution once fused.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, p: int | None = None, g: int = 1,
                 act: bool | str | nn.Module = True) -> None:
        super().__init__()
        if k != 3 or p not in (None, 1):
            raise ValueError(f"a RepConv has kernel 3 and padding 1, not kernel {k} and padding {p}")
        if c1 == c2 and s == 1:
            self.rbr_identity = batch_norm(c1)
        self.rbr_dense = nn.Sequential(nn.Conv2d(c1, c2, 3, s, 1, groups=g, bias=False), batch_norm(c2))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(c1, c2, 1, s, 0, groups=g, bias=False), batch_norm(c2))
        self.act = activation(act)
        self.out_channels, self.stride = c2, s

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "rbr_reparam"):
            return self.act(self.rbr_reparam(x))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        if hasattr(self, "rbr_identity"):
            y = y + self.rbr_identity(x)
        return self.act(y)

    def fuse(self) -> None:
        """Collapse the branches into `rbr_reparam`."""
        if hasattr(self, "rbr_reparam"):
            return
        with torch.no_grad():
            weight, bias = fold_batch_norm(*self.rbr_dense)
            point, point_bias = fold_batch_norm(*self.rbr_1x1)
            weight, bias = weight + F.pad(point, [1, 1, 1, 1]), bias + point_bias
            if hasattr(self, "rbr_identity"):
                norm = self.rbr_identity
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                index = torch.arange(len(scale), device=scale.device)
                weight[index, index % weight.shape[1], 1, 1] += scale
                bias = bias + norm.bias - norm.running_mean * scale
                del self.rbr_identity
            self.rbr_reparam = with_bias(self.rbr_dense[0], weight, bias)
        del self.rbr_dense, self.rbr_1x1
