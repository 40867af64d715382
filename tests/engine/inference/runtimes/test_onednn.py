"""Inference alone on a CPU: the same numbers within rounding, and a model that stays what it was."""

import pytest
import torch
from torch import nn

from engine.inference.runtimes import onednn
from models import build_model
from models.layers.conv import Conv


def pieces(model: nn.Module) -> int:
    return sum(isinstance(module, onednn.PackedConv) for module in model.modules())


@pytest.mark.parametrize("act", ["SiLU", "ReLU", "LeakyReLU(0.1)", "Hardswish", "Sigmoid", "Tanh", "Identity"])
@pytest.mark.parametrize("geometry", [{}, {"k": 3, "s": 2}, {"k": 3, "g": 4, "d": 2}, {"k": [1, 5]}])
def test_equals_convolution_and_activation(act, geometry):
    conv = Conv(8, 8, act=act, **geometry).eval()
    nn.init.normal_(conv.bn.running_mean)
    conv.fuse()
    x = torch.randn(2, 8, 13, 17)
    with torch.inference_mode():
        packed = onednn.packed(nn.Sequential(conv))
        assert pieces(packed) == 1
        torch.testing.assert_close(packed(x), conv(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["yolov8n-assn", "yolov7-tiny"])
def test_a_model_is_left_as_it_was(name):
    model = build_model(name, 3).eval().fuse()
    packed = onednn.packed(model)
    x = torch.rand(1, 3, 64, 64)
    assert pieces(packed) > 50 and pieces(model) == 0
    with torch.inference_mode():
        for a, b in zip(packed.decode(packed(x)), model.decode(model(x)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    shared = {t.data_ptr() for t in model.parameters()}
    assert {t.data_ptr() for t in packed.parameters()} == shared  # weights are not held twice


def test_other_layers_stay(monkeypatch):
    mish = Conv(4, 4, act="Mish").eval()
    mish.fuse()
    assert pieces(onednn.packed(nn.Sequential(mish, Conv(4, 4).eval()))) == 0  # no such activation; not fused
    fused = Conv(4, 4)
    fused.fuse()
    monkeypatch.setattr(onednn.torch.backends.mkldnn, "is_available", lambda: False)
    model = nn.Sequential(fused)
    assert onednn.packed(model) is model
