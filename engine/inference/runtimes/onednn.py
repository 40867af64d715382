"""A fused model for CPUs whose convolutions apply their activation themselves, through PyTorch's operators of oneDNN.

As modules, a convolution writes its map to memory, the activation reads and writes it again, and weights are brought
into oneDNN's order anew for every image. Here a map is written once: YOLOv8n at 640 pixels takes 138 -> 108 ms on one
core (the least of 8 rounds in turn; 10 % by the median on a busy machine). Values change by the rounding of float32.
"""

import copy

import torch
from torch import Tensor, nn

from models.layers.conv import Conv

# activation -> its name in oneDNN, and the names of its numbers
POINTWISE: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.SiLU: ("swish", ()), nn.ReLU: ("relu", ()), nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.Hardswish: ("hardswish", ()), nn.Sigmoid: ("sigmoid", ()), nn.Tanh: ("tanh", ()), nn.Identity: ("none", ())}


class PackedConv(Conv):
    """A fused `Conv` in float32 as one operator; it shares the weights of that, which it keeps for `finish`."""

    def __init__(self, fused: Conv) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn, self.act = fused.conv, fused.bn, fused.act
        self.out_channels, self.stride = fused.out_channels, fused.stride
        conv, (name, numbers) = fused.conv, POINTWISE[type(fused.act)]
        geometry = [list(side) for side in (conv.padding, conv.stride, conv.dilation)]
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, conv.groups)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.rest = *geometry, conv.groups, name, [getattr(fused.act, number) for number in numbers], ""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.rest)


def packed(model: nn.Module) -> nn.Module:
    """A copy of a fused float32 model on the CPU for inference alone, which shares its tensors: the model itself stays
    one that can be traced and differentiated. Returns the model where this PyTorch lacks the operators."""
    if not _has_operators():
        return model
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if _can_pack(child):
                setattr(parent, name, PackedConv(child))
    return twin


def _can_pack(module: nn.Module) -> bool:
    return (isinstance(module, Conv) and type(module).forward is Conv.forward and type(module.act) in POINTWISE
            and type(module.conv) is nn.Conv2d and type(module.bn) is nn.Identity
            and module.conv.padding_mode == "zeros" and not isinstance(module.conv.padding, str))


def _has_operators() -> bool:
    """Whether a small convolution goes through: the operators are PyTorch's own, not of its documented interface."""
    if not torch.backends.mkldnn.is_available():
        return False
    small = Conv(1, 1)
    small.fuse()
    try:
        with torch.inference_mode():
            PackedConv(small.eval())(torch.zeros(1, 1, 2, 2))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
