"""The semantic fusion of ASSD, and what stands in its place where it is left out."""

import copy

import torch
import torch.nn.functional as F

from models.layers.fusion import SemanticFusion
from models.layers.plumbing import First


def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, n, n, generator=generator) for c, n in ((8, 9), (12, 5), (16, 3))]


@torch.no_grad()
def test_formula():
    """Corners of the deeper maps lie on corners of the finest one."""
    torch.manual_seed(0)
    unit, inputs = SemanticFusion([8, 12, 16]).eval(), maps()
    assert [tuple(layer.weight.shape[:2]) for layer in unit.layers] == [(4, 8), (4, 12), (4, 16)]
    parts = [F.interpolate(layer(x), size=(9, 9), mode="bilinear", align_corners=True)
             for layer, x in zip(unit.layers, inputs, strict=True)]
    for part, layer, x in zip(parts, unit.layers, inputs, strict=True):
        torch.testing.assert_close(part[..., 0, 0], layer(x)[..., 0, 0])
        torch.testing.assert_close(part[..., -1, -1], layer(x)[..., -1, -1])
    torch.testing.assert_close(unit(inputs), unit.conv(unit.bn(torch.cat(parts, 1))).relu())


@torch.no_grad()
def test_fusing_keeps_the_output():
    torch.manual_seed(0)
    unit = SemanticFusion([8, 12, 16], 6).eval()
    for value in (unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias):
        value.copy_(torch.rand(18) + 0.5)
    fused = copy.deepcopy(unit)
    fused.fuse()
    torch.testing.assert_close(fused(maps()), unit(maps()), rtol=1e-4, atol=1e-5)
    assert not any("bn" in key for key in fused.state_dict())


def test_first_is_the_first():
    inputs = maps()
    assert First([8, 12, 16])(inputs) is inputs[0] and First([8, 12, 16]).out_channels == 8
