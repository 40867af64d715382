"""`utils.frame`: what a model asks of its input, as plain data and as numbers."""

import pytest
import torch

from models.detector import build_model
from tests.refusals import refused
from utils.frame import Frame, Pixels

ROWS = {"backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[-1, 1, "Conv", [8, 3, 2]], [[0, 1], 1, "Detect", [2]]]}
CAFFE = {"scale": 255, "mean": [104, 117, 123], "std": [1, 1, 2], "order": "bgr"}


@pytest.mark.parametrize("content", [{}, {"fit": "stretch", "size": [300, 320], "fill": [1, 2, 3], "shrink": "linear"},
                                     {"fit": "shortest", "multiple": 64, "short": 400, "long": 666, "pad": "corner"},
                                     {"eval_rect": False}])
def test_a_frame_survives_as_plain_data(content) -> None:
    frame = Frame.from_mapping(content, "file", multiple=64)
    assert Frame.from_mapping(frame.to_dict(), "file") == frame
    assert frame.multiple == (1 if "size" in content else 64)


@pytest.mark.parametrize(("frame", "expected"), [
    (Frame(), True), (Frame(eval_rect=False), False), (Frame(pad="corner"), True), (Frame(size=(64, 64)), False),
    (Frame(fit="stretch", size=(64, 64)), False), (Frame(fit="shortest", short=64, long=64), False),
    (Frame().held_to((64, 64)), False)])
def test_letterboxed_images_of_free_size_are_evaluated_in_rectangles(frame, expected) -> None:
    assert frame.evaluates_rect((64, 64)) is expected
    assert not frame.evaluates_rect((64, 96))  # a frame that is given is kept


def test_pixels_survive_as_plain_data() -> None:
    pixels = Pixels.from_mapping(CAFFE, "file")
    assert Pixels.from_mapping(pixels.to_dict(), "file") == pixels and not pixels.is_plain
    assert Pixels.from_mapping(None, "file").is_plain


@pytest.mark.parametrize(("key", "content", "code", "told"), [
    ("frame", {"fitt": 1}, "unknown-key", "'fit'"), ("frame", {"fit": "squeeze"}, "unknown-name", "letterbox, stretch"),
    ("frame", {"fit": "stretch"}, "bad-value", "size"), ("frame", {"size": 300}, "bad-value", "size"),
    ("frame", {"size": [300]}, "bad-value", "size"), ("frame", {"fill": [0, 0, 256]}, "bad-value", "fill"),
    ("frame", {"eval_rect": 1}, "bad-value", "true or false"),
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


STRETCH = Frame(fit="stretch", size=(300, 300), multiple=1)
OBLONG = Frame(fit="stretch", size=(300, 500), multiple=1)
SHORTEST = Frame(fit="shortest")


@pytest.mark.parametrize(("frame", "sides", "expected"), [
    (Frame(), None, (640, 640)), (Frame(), (64,), (64, 64)), (Frame(), (64, 96), (64, 96)), (Frame(), 96, (96, 96)),
    (STRETCH, None, (300, 300)), (STRETCH, (640,), (300, 300)), (OBLONG, (300, 500), (300, 500)),
    (SHORTEST, None, (800, 1333)), (SHORTEST, (400,), (400, 666)), (SHORTEST, (400, 500), (400, 500)),
    (Frame(fit="shortest", short=100, long=100), 64, (64, 64)),
])
def test_sides_become_two_numbers(frame, sides, expected) -> None:
    assert frame.resolve(sides) == expected


def test_image_sizes_are_rounded_up_to_multiples_and_that_is_said(capsys) -> None:
    assert Frame().round([640]) == Frame().round(None) == (640, 640) and capsys.readouterr().out == ""
    assert Frame().round([100, 640]) == (128, 640) and "rounded up to 128 640" in capsys.readouterr().out
    assert Frame(multiple=64).round_each([640]) == (640,) and Frame(multiple=64).round_each([600, 640]) == (640, 640)
    assert SHORTEST.round([401]) == (401, 668) and SHORTEST.up((401, 668)) == (416, 672)
    assert SHORTEST.round_each([401]) == (401,) and SHORTEST.round_each([401, 600]) == (401, 600)


def test_a_fixed_size_takes_no_other() -> None:
    assert STRETCH.round([300]) == STRETCH.round([300, 300]) == (300, 300) and STRETCH.up((300, 300)) == (300, 300)
    assert STRETCH.round_each([300]) == STRETCH.round_each([300, 300]) == (300,)
    assert OBLONG.round_each([300, 500]) == (300, 500) == OBLONG.round([300, 500])
    for wrong in ([640], [300, 320], [320, 300]):
        with refused("fixed-size", "--imgsz", "own.yaml", "300 x 300"):
            STRETCH.round(wrong, "own.yaml")
        with refused("fixed-size", "--imgsz", "300 x 300"):
            STRETCH.round_each(wrong)
    with refused("fixed-size", "300 x 500"):
        OBLONG.round_each([300])
    with refused("bad-value", "--imgsz 900 800", "shorter"):
        SHORTEST.round([900, 800])


def test_an_exported_file_of_one_size_fits_images_into_it() -> None:
    held = SHORTEST.held_to((320, 480))
    assert (held.fit, held.size, held.pad) == ("letterbox", (320, 480), SHORTEST.pad)
    assert Frame().held_to(None) == Frame() and STRETCH.held_to((300, 300)) is STRETCH
