"""How a neck starts, in a model file, by `build_model` and by itself."""

import pytest
import torch
from torch import nn

from models import build_model
from models.layers.conv import activation, batch_norm
from models.necks.start import zero_affine
from utils.errors import UserError


@pytest.mark.parametrize("name", ["SiLU", "Mish", "LeakyReLU(0.1)", "Hardswish", "GELU", "Identity"])
def test_a_zero_affine_gives_zeros_and_learns(name):
    norm, act = batch_norm(4), activation(name)
    zero_affine(norm, act, "ASSN")
    y = act(norm(torch.randn(2, 4, 3, 3)))
    assert not y.any()
    (y * torch.randn_like(y)).sum().backward()
    assert norm.weight.grad.any() and norm.bias.grad.any()


@pytest.mark.parametrize("name, cause", [("ReLU", "no gradient at 0"), ("Sigmoid", "not 0 at 0")])
def test_an_activation_that_would_stay_zero_is_refused(name, cause):
    with pytest.raises(UserError, match=cause):
        zero_affine(batch_norm(4), activation(name), "ASSN")


def test_a_fresh_model_starts_as_a_fresh_base():
    model = build_model("yolov8n", 3, neck={"type": "ssfpn", "start": "identity"}).eval()
    x, neck = torch.rand(1, 3, 64, 64), model.model[-2]
    with torch.no_grad():
        before = model.decode(model(x))
        nn.init.normal_(neck.scale.conv3d.weight)
        assert all(torch.equal(a, b) for a, b in zip(model.decode(model(x)), before, strict=True))
        nn.init.normal_(model.head.cv3[0][0].conv.weight)
        assert not torch.equal(model.decode(model(x))[1], before[1])


def test_only_known_starts_are_taken():
    with pytest.raises(UserError, match="start 'zero' is not one of identity, published"):
        build_model("yolov8n", 3, neck={"type": "assn", "start": "zero"})


def test_a_neck_that_cannot_start_as_nothing_is_told():
    with pytest.raises(UserError, match="FlatSSFPN does not define start_as_identity"):
        build_model("yolov8n", 3, neck={"type": "FlatSSFPN", "start": "identity"})
