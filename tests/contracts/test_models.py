"""What every model must keep, over the registry of names and necks: narrow copies, so that all of them are tried."""

import copy
import json

import pytest
import torch

from models import build_model, known_models, load_model
from models.catalogue import NECKS, resolve
from utils.checkpoint import save_checkpoint
from utils.structures import Raw, Targets

CLASSES = 3


def families() -> list[str]:
    """One name of each model file: members of a family differ in width and depth only."""
    return list({resolve(name)["source"]: name for name in reversed(known_models())}.values())


def narrow(name: str, neck: str | None = None) -> dict:
    """The config of a model with few channels and repeats."""
    config = resolve(name, CLASSES, neck=neck)
    return {**config, "width_multiple": 0.125, "depth_multiple": 0.3}


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Batch norms and biases away from their neutral starting values, which would hide what folding gets wrong."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                value.mul_(torch.rand(value.shape, generator=generator) + 0.5)
                value.add_(torch.rand(value.shape, generator=generator) * (0.5 if key.endswith("var") else 0.1))
    return model


@pytest.fixture(params=[(f, n) for f in families() for n in ("pan", *NECKS)], ids=lambda p: "-".join(p), scope="module")
def model(request):
    torch.manual_seed(0)
    return stirred(build_model(narrow(*request.param)))


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(2))


def targets() -> list[Targets]:
    return [Targets(torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 60]]), torch.tensor([0, 2])), Targets.empty()]


def test_step_gives_every_parameter_a_finite_gradient(model):
    model = copy.deepcopy(model).train()
    raw = model(images())
    losses = model.loss(raw, targets())
    assert all(loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


def test_images_without_objects(model):
    losses = model.loss(model(images()), [Targets.empty(), Targets.empty()])
    assert torch.isfinite(sum(losses.values()))


@torch.no_grad()
def test_types_and_shapes_do_not_depend_on_mode(model):
    model = copy.deepcopy(model)
    shapes = []
    for mode in (True, False):
        raw = model.train(mode)(images())
        assert isinstance(raw, Raw)
        assert raw.image_size == (64, 96)
        boxes, scores = model.decode(raw)
        shapes.append({name: [m.shape for m in maps] for name, maps in raw.maps.items()})
        cells = sum(64 * 96 // s**2 for s in model.strides)
        anchors = model.head.anchors.shape[1] if hasattr(model.head, "anchors") else 1
        assert boxes.shape == (2, cells * anchors, 4)
        assert scores.shape == (2, cells * anchors, CLASSES)
        assert 0 <= scores.min() <= scores.max() <= 1
    assert shapes[0] == shapes[1]
    assert len(model.select(boxes, scores, conf=0.01)) == 2


@torch.no_grad()
def test_fusing_keeps_the_output(model):
    model = copy.deepcopy(model).eval()
    before = model.decode(model(images()))
    assert model.fuse() is model
    after = model.decode(model(images()))
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-4)
    model.fuse()  # again: nothing left to do


@torch.no_grad()
def test_config_and_state_rebuild_the_model(model, tmp_path):
    config = json.loads(json.dumps(model.config))  # plain data
    save_checkpoint({"format": "assn/1", "config": config, "names": model.names, "model": model.state_dict()},
                    tmp_path / "best.pt")
    again = load_model(tmp_path / "best.pt")
    assert again.names == model.names
    assert again.config == model.config
    reference = copy.deepcopy(model).eval()
    for ours, theirs in zip(again.decode(again(images())), reference.decode(reference(images())), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_uint8_images_and_channels_last(model):
    model = copy.deepcopy(model).eval()
    pixels = (images() * 255).to(torch.uint8)
    expected = model.decode(model(pixels.float() / 255))
    assert torch.equal(model.decode(model(pixels))[1], expected[1])
    last = model.to(memory_format=torch.channels_last)
    actual = last.decode(last(pixels.contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_low_precision_maps_decode_in_float32(model):
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(images())
        inside = model.decode(raw)
    assert inside[0].dtype == inside[1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(inside, model.decode(raw), strict=True))


def test_a_size_that_is_no_multiple_of_the_stride_is_told(model):
    with pytest.raises(ValueError, match="multiples of 32"):
        model(torch.zeros(1, 3, 64, 80))
