"""detect.py --explain: heat maps of a neck and of attention lie over the image; other files are refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from engine.inference.detections import ImageDetections
from engine.inference.explain import Explainer, in_image, shown_from
from engine.inference.runtimes.base import Runtime
from engine.inference.sources import Frame
from tests.refusals import refused
from tests.tiny import ROWS, picture, tiny_checkpoint, video
from utils.structures import Letterbox


@pytest.fixture(scope="module")
def assn(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("assn") / "best.pt", {**ROWS, "neck": "assn"})


def run(weights: Path, source: Path, out: Path, *flags: object) -> Path:
    words = ["--weights", weights, "--source", source, "--project", out, "--device", "cpu", "--explain", *flags]
    return detect.main(detect.build_parser().parse_args([str(word) for word in words]))


def test_the_maps_of_a_neck(assn, tmp_path, capsys):
    source = picture(tmp_path / "a.jpg")
    folder = run(assn, source, tmp_path / "out", "--imgsz", 128)
    assert {p.name for p in (folder / "explain").iterdir()} == {f"a_{name}.jpg" for name in ("gate", "P3", "P4", "P5")}
    assert "heat maps: 4" in capsys.readouterr().out
    heat = [cv2.imread(str(folder / "explain" / f"a_{name}.jpg")) for name in ("gate", "P3")]
    strip = heat[0].shape[0] - 96
    assert strip > 8 and heat[0].shape[1] == 128 and heat[0][:strip].max() > 150  # the title
    assert (heat[0][strip:] != heat[1][strip:]).mean() > 0.5  # other values, other colours
    assert np.abs(heat[0][strip:].astype(int) - cv2.imread(str(source))).mean() > 10


def test_frames_of_a_video_have_maps_of_their_own(assn, tmp_path):
    folder = run(assn, video(tmp_path / "v.mp4", 2), tmp_path / "out", "--imgsz", 64)
    names = {p.name for p in (folder / "explain").iterdir()}
    assert names == {f"v_{k}_{name}.jpg" for k in (0, 1) for name in ("gate", "P3", "P4", "P5")}
    first, second = (cv2.imread(str(folder / "explain" / f"v_{k}_gate.jpg")) for k in (0, 1))
    assert (first != second).any()


@pytest.mark.slow
def test_the_maps_of_attention(tmp_path):
    weights = tiny_checkpoint(tmp_path / "best.pt", "assd300-r18")
    folder = run(weights, picture(tmp_path / "a.jpg"), tmp_path / "out", "--nosave", "--conf-thres", 1.0)
    assert {p.name for p in (folder / "explain").iterdir()} == {f"a_att{k}.jpg" for k in range(6)}
    assert [p.name for p in folder.iterdir()] == ["explain"]
    heat = cv2.imread(str(folder / "explain" / "a_att0.jpg"))
    assert tuple(heat[heat.shape[0] - 48, 64]) > (200, 200, 200)  # nothing is found: the cross is in the middle


def test_attention_is_that_of_the_best_detection():
    frame = Frame("a.png", 0, np.zeros((60, 100, 3), np.uint8), "image")
    boxes = torch.tensor([[10.0, 20, 30, 40], [50, 50, 60, 60]])
    found = ImageDetections(boxes, torch.tensor([0.9, 0.5]), torch.tensor([0, 0]), frame, ["a"])
    assert shown_from(found) == (20, 30) and shown_from(found[found.scores > 1]) == (50, 30)


def test_maps_are_cut_to_the_image():
    """A frame of 96 x 128 with the image of 60 x 100 at 1.2 times its size, 12 px from the top and 4 from the left."""
    values = np.zeros((12, 16), np.float32)
    values[:, 8:] = 1
    part = in_image(values, Letterbox((60, 100), (96, 128), (1.2, 1.2), (4, 12)))
    assert part.shape == (72, 120)
    assert part[:, :52].max() == 0 and part[:, 68:].min() == 1  # the border is at 64 of the frame, 60 of the image


def test_what_has_no_maps_is_refused(assn, tmp_path):
    source = picture(tmp_path / "a.jpg")
    with refused("flag-without-effect", "neither a scale-sequence neck nor attention"):
        run(tiny_checkpoint(tmp_path / "plain.pt", ROWS), source, tmp_path / "out")
    with refused("flag-without-effect", "--explain"):
        run(assn, source, tmp_path / "out", "--slice", 64)
    exported = object.__new__(Runtime)
    exported.path = Path("best.onnx")
    with refused("flag-without-effect", "best.onnx cannot be read; give the checkpoint"):
        Explainer(exported)
    assert not (tmp_path / "out").exists()
