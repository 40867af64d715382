"""A neck that starts as nothing: the detector begins as its base, to the last digit, and then learns."""

import pytest
import torch

from models import build_model, known_models
from models.catalogue import resolve, without_neck
from tests.contracts.test_models import NECKS, all_models, families, images, marked, narrow, stirred, targets

CASES = [marked(name, neck) for name in families() for neck in NECKS]
OTHERS = [pytest.param((name, neck), marks=pytest.mark.slow) for name in known_models() for neck in NECKS
          if name not in families()]
BLOCK = 16  # channels that PyTorch's CPU kernels sum at once: whole blocks of zeros change no digit of a sum


def pair(config: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A base with some weights, and the model with the neck that starts as it."""
    torch.manual_seed(0)
    base = stirred(build_model(without_neck(config)))
    return base, build_model({**config, "neck": {**config["neck"], "start": "identity"}}, base=base)


def read_widths(model: torch.nn.Module) -> list[int]:
    """Channels of the maps that the head reads."""
    node = model.model.nodes[-1]
    return [model.model.nodes[s].output(m)[0] for s, m in zip(node.sources, node.maps, strict=True)]


def assert_same_detections(base: torch.nn.Module, model: torch.nn.Module, digits: bool) -> None:
    pixels = images(base)
    with torch.no_grad():
        expected, found = (m.eval().decode(m(pixels)) for m in (base, model))
    if digits:
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES + OTHERS)
def test_every_base_with_every_neck_begins_as_the_base_and_learns(case):
    name, neck = case
    base, model = pair(narrow(name, neck, depth=0.3))
    added = read_widths(model) == read_widths(base)
    assert_same_detections(base, model, added or all(width % BLOCK == 0 for width in read_widths(base)))
    for _ in range(2):  # the first step leaves zero, the second reaches the whole branch
        model.zero_grad()
        sum(model.train().loss(model(images(model), targets=targets()), targets()).values()).backward()
        grads = {key: parameter.grad for key, parameter in model.model[-2].named_parameters()}
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad.sign()
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert all(grad.any() for key, grad in grads.items() if key.endswith("conv.weight"))


@pytest.mark.parametrize("name", all_models())
def test_the_widths_of_all_models_are_whole_blocks(name):
    with torch.device("meta"):
        assert all(width % BLOCK == 0 for width in read_widths(build_model(name)))


@pytest.mark.slow
@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("name", ["yolov8n", "yolov8m", "yolov8x", "yolov5n", "yolov3-tiny", "yolov7-tiny"])
def test_the_full_width(name, neck):
    assert_same_detections(*pair(resolve(name, 3, neck=neck)), digits=True)


def test_concatenated_attention_starts_as_the_base_too():
    config = narrow("yolov8n", {"type": "assn", "merge": "concat"}, depth=0.3)
    assert_same_detections(*pair(config), digits=False)
