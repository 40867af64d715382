"""`utils.frame`: what a model asks of its input, as plain data and as numbers."""

import pytest
import torch

from models.detector import build_model
from tests.refusals import refused
from utils.frame import Frame, Pixels

ROWS = {"backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[-1, 1, "Conv", [8, 3, 2]], [[0, 1], 1, "Detect", [2]]]}
CAFFE = {"scale": 255, "mean": [104, 117, 123], "std": [1, 1, 2], "order": "bgr"}


@pytest.mark.parametrize("content", [{}, {"fit": "stretch", "size": [300, 320], "fill": [1, 2, 3], "shrink": "linear"},
                                     {"fit": "shortest", "multiple": 64, "short": 400, "long": 666, "pad": "corner"}])
def test_a_frame_survives_as_plain_data(content) -> None:
    frame = Frame.from_mapping(content, "file", multiple=64)
    assert Frame.from_mapping(frame.to_dict(), "file") == frame
    assert frame.multiple == (1 if "size" in content else 64)


def test_pixels_survive_as_plain_data() -> None:
    pixels = Pixels.from_mapping(CAFFE, "file")
    assert Pixels.from_mapping(pixels.to_dict(), "file") == pixels and not pixels.is_plain
    assert Pixels.from_mapping(None, "file").is_plain


@pytest.mark.parametrize(("key", "content", "code", "told"), [
    ("frame", {"fitt": 1}, "unknown-key", "'fit'"), ("frame", {"fit": "squeeze"}, "unknown-name", "letterbox, stretch"),
    ("frame", {"fit": "stretch"}, "bad-value", "size"), ("frame", {"size": 300}, "bad-value", "size"),
    ("frame", {"size": [300]}, "bad-value", "size"), ("frame", {"fill": [0, 0, 256]}, "bad-value", "fill"),
    ("frame", {"short": 900, "long": 800}, "bad-value", "`long`"), ("frame", {"multiple": True}, "bad-value", "multip"),
    ("pixels", {"std": [1, 1, 0]}, "bad-value", "std"), ("pixels", {"mean": [1, 1]}, "bad-value", "mean"),
    ("pixels", {"mean": ["a", 1, 1]}, "bad-value", "mean"), ("pixels", {"order": "gbr"}, "unknown-name", "rgb, bgr"),
    ("pixels", {"scale": 0}, "bad-value", "scale"), ("frame", "stretch", "bad-value", "`frame`"),
])
def test_what_cannot_be_is_told_with_file_and_key(key, content, code, told) -> None:
    with refused(code, "own.yaml", key, told):
        build_model({**ROWS, "source": "own.yaml", key: content})


def test_the_network_reads_what_pixels_say() -> None:
    model = build_model({**ROWS, "pixels": CAFFE}).eval()
    seen = []
    model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    model(images)
    model(images / 255)
    expected = (images.flip(1).double() - torch.tensor([104, 117, 123])[:, None, None]) / torch.tensor(
        [1, 1, 2])[:, None, None]
    assert torch.equal(seen[0].double(), expected)  # whole numbers stay exact
    torch.testing.assert_close(seen[1].double(), expected, rtol=0, atol=1e-4)


def test_plain_pixels_are_divided_alone() -> None:
    model = build_model(ROWS).eval()
    seen = []
    model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    model(images)
    assert torch.equal(seen[0], images.float().div(255))


def test_a_fixed_size_is_kept() -> None:
    model = build_model({**ROWS, "frame": {"fit": "stretch", "size": [33, 45]}}).eval()
    assert model(torch.zeros(1, 3, 33, 45)).image_size == (33, 45)
    with refused("fixed-size", "33 x 45", "32 x 32"):
        model(torch.zeros(1, 3, 32, 32))


def test_batch_norms_get_the_constants_of_the_file() -> None:
    model = build_model({**ROWS, "batch_norm": [1e-5, 0.1]})
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all((m.eps, m.momentum) == (1e-5, 0.1) for m in norms)
    with refused("bad-value", "batch_norm", "eps, momentum"):
        build_model({**ROWS, "batch_norm": [1e-5]})
