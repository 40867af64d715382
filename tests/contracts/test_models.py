"""What every model must keep, over the registry of names and necks: narrow copies, so that all of them are tried."""

import copy
import json
from functools import cache
from math import ceil

import pytest
import torch

from engine.export.config import ExportConfig
from engine.export.export import export
from models import build_model, known_models, load_model
from models.catalogue import resolve
from models.layers.attention import SelfAttention
from models.registry import known_necks
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.select import SelectConfig
from utils.structures import Raw, Targets

CLASSES = 3
NECKS = list(known_necks())
SIZE = (64, 128)  # of the images, px: the least that models of stride 64 take, and not square; where the size is free
# Of models on a classifier's backbone, which state a frame, the smallest of each head; the others are slow.
SMALL = {"ssd300-r18", "assd300-r18", "retinanet-r18", "salience-detr-r18", "salience-detr-tiny"}
LARGE = 320  # px of a fixed frame, from which on random maps grow


@cache
def families() -> list[str]:
    """One name of each file that lists rows, and of each set of blocks that these rows may stand for: other members of
    a family differ in widths and depths."""
    by_rows: dict[str, list[str]] = {}
    for name in known_models():
        config = resolve(name)
        blocks = [b for b in config.get("aliases", {}).values() if b in ("SemanticFusion", "SelfAttention")]
        by_rows.setdefault(f"{config['source']} {blocks}", []).append(name)
    return [min(names, key=len) for names in by_rows.values()]


def marked(name: str, *rest: str) -> pytest.param:
    """These parameters, slow where the model is large and a smaller one has the same head."""
    slow = name not in SMALL and has_frame(name)
    return pytest.param((name, *rest), marks=[pytest.mark.slow] * slow, id="-".join((name, *rest)))


@cache
def all_models() -> list:
    """Every model as a parameter, slow where another one stands for its family."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in families()), id=name) for name in known_models()]


@cache
def has_frame(name: str) -> bool:
    """Whether a model states the frame of its images."""
    return "frame" in resolve(name)


def narrow(name: str, neck: str | None = None, depth: float | None = None) -> dict:
    """The config of a model with an eighth of its channels and, where `depth` is given, few repeats."""
    config = resolve(name, CLASSES, neck=neck)
    config["width_multiple"] /= 8
    return config | ({"depth_multiple": depth} if depth else {})


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Batch norms and biases away from their neutral starting values, which would hide what folding gets wrong."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                value.mul_(torch.rand(value.shape, generator=generator) + 0.5)
                value.add_(torch.rand(value.shape, generator=generator) * (0.5 if key.endswith("var") else 0.1))
        for conv in getattr(model.head, "loc", ()):  # offsets of tens, whose exponentials leave nothing to compare
            conv.weight.mul_(0.05)
        for unit in model.modules():  # logits of hundreds: nearly an argmax, which enlarges the rounding before it
            if isinstance(unit, SelfAttention):
                unit.query.weight.mul_(0.1)
    return model


@pytest.fixture(params=[marked(f, n) for f in families() for n in ("pan", *NECKS)], scope="module")
def model(request):
    torch.manual_seed(0)
    return stirred(build_model(narrow(*request.param, depth=0.3)))


def images(model: torch.nn.Module, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, *(model.frame.size or SIZE), generator=torch.Generator().manual_seed(2))


def targets() -> list[Targets]:
    return [Targets(torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 60]]), torch.tensor([0, 2])), Targets.empty()]


def test_step_gives_every_parameter_a_finite_gradient(model):
    model = copy.deepcopy(model).train()
    raw = model(images(model), targets=targets())
    losses = model.loss(raw, targets())
    assert all(loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


def test_images_without_objects_reach_every_parameter(model):
    """Processes that train together wait for the gradient of each parameter from all of them."""
    model = copy.deepcopy(model).train()
    none = [Targets.empty(), Targets.empty()]
    sum(model.loss(model(images(model), targets=none), none).values()).backward()
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), key


@torch.no_grad()
def test_types_and_shapes_do_not_depend_on_mode(model):
    model = copy.deepcopy(model)
    shapes, size = [], model.frame.size or SIZE
    for mode in (True, False):
        raw = model.train(mode)(images(model))
        assert isinstance(raw, Raw)
        assert raw.image_size == size
        boxes, scores = model.decode(raw)
        per_cell = model.head.per_cell  # a set has as many answers as the values give
        shapes.append({name: [m.shape if per_cell else (m.shape[0], m.shape[2:]) for m in maps]
                       for name, maps in raw.maps.items()})
        count = sum(ceil(size[0] / s) * ceil(size[1] / s) * n for s, n in zip(model.strides, per_cell, strict=True)
                    ) if per_cell else boxes.shape[1]
        assert boxes.shape == (2, count, 4)
        assert scores.shape == (2, count, CLASSES)
        assert 0 <= scores.min() <= scores.max() <= 1
    assert shapes[0] == shapes[1]
    assert len(model.select(boxes, scores, SelectConfig(0.01))) == 2


@torch.no_grad()
def test_fusing_keeps_the_output(model):
    model = copy.deepcopy(model).eval()
    before = model.decode(model(images(model)))
    assert model.fuse() is model
    after = model.decode(model(images(model)))
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
    raws = again(images(model)), reference(images(model))
    for ours, theirs in zip(again.decode(raws[0]), reference.decode(raws[1]), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_uint8_images_and_channels_last(model):
    model = copy.deepcopy(model).eval()
    pixels = (images(model) * 255).to(torch.uint8)
    expected = model.decode(model(pixels.float() / 255))
    actual = model.decode(model(pixels))
    if model.pixels.is_plain:
        assert torch.equal(actual[1], expected[1])
    torch.testing.assert_close(actual[1], expected[1], rtol=0, atol=1e-5)
    last = model.to(memory_format=torch.channels_last)
    actual = last.decode(last(pixels.contiguous(memory_format=torch.channels_last)))
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_low_precision_maps_decode_in_float32(model):
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(images(model))
        inside = model.decode(raw)
    assert inside[0].dtype == inside[1].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(inside, model.decode(raw), strict=True))


def test_a_size_that_is_no_multiple_of_the_stride_is_told(model):
    size = model.frame.size
    told = f"takes images of {size[0]} x {size[1]} pixels" if size else f"multiples of {model.frame.multiple}"
    with pytest.raises(UserError, match=told):
        model(torch.zeros(1, 3, 64, 72))


def test_auxiliary_heads_learn_beside_the_lead():
    torch.manual_seed(0)
    model = build_model(narrow("yolov7-w6"))
    raw = model(images(model))
    whole = sum(model.loss(raw, targets()).values())
    lead = sum(model.loss(Raw({"lead": raw.maps["lead"]}, SIZE), targets()).values())
    assert whole > lead
    whole.backward()
    assert all(conv.weight.grad.abs().sum() > 0 for conv in model.head.m2)


@pytest.mark.parametrize("case", [marked(name, neck) for name in known_models() for neck in ("pan", *NECKS)])
def test_every_name_with_every_neck_learns_fuses_and_survives_a_checkpoint(case, tmp_path):
    name, neck = case
    torch.manual_seed(0)
    model = stirred(build_model(narrow(name, neck)))
    sum(model.train().loss(model(images(model), targets=targets()), targets()).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
    save_checkpoint({"format": "assn/1", "config": model.config, "names": model.names, "model": model.state_dict()},
                    tmp_path / "best.pt")
    # The random maps of a hundred layers grow, and attention to them is nearly an argmax: there rounding shows.
    kind = torch.float64 if max(model.frame.size or SIZE) > LARGE else torch.float32
    pixels, model, again = images(model).to(kind), model.eval().to(kind), load_model(tmp_path / "best.pt").to(kind)
    with torch.no_grad():
        expected = model.decode(model(pixels))
        assert all(torch.equal(a, b) for a, b in zip(again.decode(again(pixels)), expected, strict=True))
        fused = again.fuse()(pixels)
        assert "aux" not in fused.maps
        boxes, scores = again.decode(fused)
    torch.testing.assert_close(boxes, expected[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected[1], rtol=0, atol=1e-4)


ONE_OF_EACH_FAMILY = [("yolov3-tiny", "pan"), ("yolov4-p5", "ssfpn"), ("yolov5n6", "assn"), ("yolor-p6", "ssfpn"),
                      ("yolov7-w6", "assn"), ("yolov7-w6", "ssfpn"), ("yolov8n-p2", "ssfpn"), ("ssd300-r18", "assn"),
                      ("assd300-r18", "pan"), ("retinanet-r18", "ssfpn"), ("retinanet-r50-att", "pan")]
OTHERS = [(name, neck) for name in known_models() for neck in ("pan", *NECKS)
          if (name, neck) not in ONE_OF_EACH_FAMILY]


@pytest.mark.parametrize("name, neck", ONE_OF_EACH_FAMILY + [pytest.param(*p, marks=pytest.mark.slow) for p in OTHERS])
def test_onnx(name, neck, tmp_path):
    torch.manual_seed(0)
    model = build_model(narrow(name, neck, depth=0.3)).eval()
    for comparison in export(model, tmp_path / "model.onnx", ExportConfig(imgsz=model.frame.size or SIZE)).comparisons:
        assert comparison.boxes < 0.01
        assert comparison.scores < 1e-4
