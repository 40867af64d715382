"""ResNet rows against torchvision's networks, with their weights by name."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from models.layers.resnet import ResNetStage, ResNetStem
from utils.errors import UserError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def rows(depth: int, norm: str = "bn") -> nn.Sequential:
    """Stem and stages under the names that model files give them."""
    kind = "basic" if depth < 50 else "bottleneck"
    net = nn.Sequential()
    net.add_module("stem", ResNetStem(3, 64, norm))
    channels = 64
    for i, blocks in enumerate(BLOCKS[depth]):
        stage = ResNetStage(channels, 64 << i, 2 if i else 1, kind, norm, blocks=blocks)
        net.add_module(f"layer{i + 1}", stage)
        channels = stage.out_channels
    return net


def ours_of(state: dict[str, torch.Tensor], buffers: bool = True) -> dict[str, torch.Tensor]:
    """A classifier's state dict under our names."""
    named = {k if k.startswith("layer") else f"stem.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    return {k: v for k, v in named.items() if buffers or not k.endswith("num_batches_tracked")}


def stirred(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point() and value.dim() == 1:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return net


@pytest.mark.parametrize("depth", BLOCKS)
def test_names_shapes_and_order_are_those_of_torchvision(depth):
    with torch.device("meta"):
        net, theirs = rows(depth), getattr(torchvision.models, f"resnet{depth}")()
    wanted = ours_of(theirs.state_dict())
    assert [(k, v.shape) for k, v in net.state_dict().items()] == [(k, v.shape) for k, v in wanted.items()]


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_forward_equals_that_of_torchvision(depth):
    torch.manual_seed(0)
    theirs = stirred(getattr(torchvision.models, f"resnet{depth}")()).eval()
    net = rows(depth).eval()
    net.load_state_dict(ours_of(theirs.state_dict()))
    x = torch.rand(1, 3, 65, 97)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for i in range(1, 5):
        y = getattr(theirs, f"layer{i}")(y)
    assert torch.equal(net(x), y)

    frozen = rows(depth, "frozen")
    frozen.load_state_dict(ours_of(theirs.state_dict(), buffers=False))
    torch.testing.assert_close(frozen.train()(x), y, rtol=1e-5, atol=1e-4 * float(y.abs().max()))
    assert not any("bn" in name or "downsample.1" in name for name, _ in frozen.named_parameters())


@pytest.mark.parametrize("norm", ["bn", "frozen"])
@torch.no_grad()
def test_fusing_keeps_the_output_and_removes_every_norm(norm):
    torch.manual_seed(0)
    net = stirred(rows(50, norm)).eval()
    fused = copy.deepcopy(net)
    for module in fused.modules():
        if hasattr(module, "fuse"):
            module.fuse()
    x = torch.rand(1, 3, 64, 64)
    expected = net(x)
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not any("running_var" in key for key in fused.state_dict())


def test_a_wrong_word_is_told():
    with pytest.raises(UserError, match="basic"):
        ResNetStage(64, 64, 1, "basik")
    with pytest.raises(UserError, match="frozen"):
        ResNetStem(3, 64, "frosen")
