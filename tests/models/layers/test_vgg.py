"""VGG-16 as SSD reads it, L2Norm, and the layers that SSD and ASSD add."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from models.layers.vgg import VGG16, ConvReLU, L2Norm


def test_features_are_those_of_torchvision():
    """By their index; pooling 3 rounds up, as 300 px halve to 75 and then to 38."""
    torch.manual_seed(0)
    vgg = torchvision.models.vgg
    theirs, ours = vgg.make_layers(vgg.cfgs["D"])[:23], VGG16(3, 64, 0, 23)
    ours.load_state_dict(theirs.state_dict())
    theirs[16].ceil_mode = True
    x = torch.rand(1, 3, 44, 60)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert ours(x).shape[2:] == (6, 8)
    assert (ours.out_channels, ours.stride) == (512, 8)


def test_the_rest_halves_once_and_ends_in_fc7():
    rest = VGG16(64, 8, 23)
    assert list(dict(rest.named_parameters()))[0] == "24.weight"
    assert (rest.out_channels, rest.stride) == (128, 2)
    fc6, fc7 = rest.get_submodule("31"), rest.get_submodule("33")
    assert (fc6.kernel_size, fc6.dilation, fc6.padding, fc7.kernel_size) == ((3, 3), (6, 6), (6, 6), (1, 1))
    assert rest(torch.rand(1, 64, 38, 38)).shape == (1, 128, 19, 19)


@pytest.mark.parametrize("first, last", [(5, 5), (-1, 3), (0, 36)])
def test_layers_that_are_not_there_are_told(first, last):
    with pytest.raises(ValueError, match="of 0 to 35"):
        VGG16(3, 8, first, last)


@torch.no_grad()
def test_l2norm_by_hand():
    norm = L2Norm(2)
    x = torch.tensor([3.0, 4.0])[None, :, None, None]
    assert norm(x).flatten().tolist() == pytest.approx([12, 16])
    assert norm(torch.zeros(1, 2, 1, 1)).flatten().tolist() == [0, 0]
    norm.weight.copy_(torch.tensor([1.0, 10.0]))
    assert norm(x.bfloat16()).flatten().tolist() == pytest.approx([0.6, 8], rel=0.01)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["bn", "frozen"])
def test_fusing_a_convolution_keeps_its_output(norm):
    torch.manual_seed(0)
    layer, x = ConvReLU(4, 6, 3, 2, norm=norm).eval(), torch.rand(1, 4, 7, 7)
    for value in (layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias):
        value.copy_(torch.rand(6) + 0.5)
    fused = copy.deepcopy(layer)
    fused.fuse()
    torch.testing.assert_close(fused(x), layer(x))
    assert isinstance(fused.bn, nn.Identity)


def test_one_value_per_channel_is_normalised_by_the_running_statistics():
    layer, x = ConvReLU(4, 6, norm="bn").train(), torch.rand(1, 4, 1, 1)
    before = layer.bn.running_mean.clone()
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, copy.deepcopy(layer).eval()(x))
    assert torch.equal(layer.bn.running_mean, before)
    layer(torch.rand(2, 4, 1, 1))
    assert not torch.equal(layer.bn.running_mean, before)


def test_first_weights_are_those_of_ssd_without_a_norm_alone():
    torch.manual_seed(0)
    plain, normed = ConvReLU(64, 64, 3), ConvReLU(64, 64, 3, norm="bn")
    bound = (6 / (2 * 64 * 9)) ** 0.5
    assert not plain.conv.bias.any() and normed.conv.bias.any()
    assert 0.99 * bound < float(plain.conv.weight.abs().max()) <= bound
