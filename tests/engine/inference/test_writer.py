"""Results are whole files under names that never collide, whatever the names of inputs and classes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.sources import Frame
from engine.inference.writer import ResultWriter
from engine.inference.writing.names import class_folders, shorten
from engine.inference.writing.video import VideoFile

ODD = ["car/truck", "car:truck", "../up", "nul ", "", "...", "CAR_truck", "a\x1b[31m", "圆形", "x" * 300,
       "x" * 300 + "y"]


def found(frame: Frame, names: Sequence[str] = ("a",), label: int = 0) -> ImageDetections:
    return ImageDetections(torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.tensor([0.9]), torch.tensor([label]), frame,
                           names)


def test_class_folders_are_names_of_their_own(tmp_path):
    folders = class_folders(ODD)
    assert len({f.lower() for f in folders}) == len(ODD)
    for folder in folders:
        assert Path(folder).name == folder and folder not in (".", "..") and folder.isprintable()
        (tmp_path / folder).mkdir()
    assert folders[0] == "car_truck" and folders[3] == "nul_3" and folders[8] == "圆形"


def test_crops_of_odd_classes_stay_below_their_folder(tmp_path):
    results = ResultWriter(DetectConfig(nosave=True, save_crop=True, project=str(tmp_path)), ODD)
    for label in range(len(ODD)):
        results.add(found(Frame("a.png", 0, np.zeros((20, 20, 3), np.uint8), "image"), ODD, label))
    files = [p.relative_to(tmp_path / "exp" / "crops") for p in (tmp_path / "exp").rglob("*.jpg")]
    assert len(files) == len(ODD) and all(len(p.parts) == 2 for p in files)


def test_a_frame_never_takes_the_name_of_a_picture(tmp_path):
    results = ResultWriter(DetectConfig(nosave=True, save_txt=True, save_crop=True, project=str(tmp_path)), ["car"])
    for path, index, kind in (("v.mp4", 1, "video"), ("v_1.png", 0, "image"), ("v.mp4", 2, "video")):
        results.add(found(Frame(path, index, np.zeros((20, 20, 3), np.uint8), kind)))
    assert sorted(p.name for p in (tmp_path / "exp" / "labels").iterdir()) == ["v_1.txt", "v_1_2.txt", "v_2.txt"]
    assert len(list((tmp_path / "exp" / "crops").rglob("*.jpg"))) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 33), (4, 9000)])
@pytest.mark.parametrize("fps", [480 / 7, 0.5, float("nan"), 29.97])
def test_videos_of_any_size_and_rate_are_written(tmp_path, size, fps):
    video = VideoFile(tmp_path / "ü" / "v.mp4", fps, *size)
    for value in (10, 120):
        video.write(np.full((*size, 3), value, np.uint8))
    video.close()
    assert [p.name for p in (tmp_path / "ü").iterdir()] == ["v.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "ü" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps if fps == fps else 30, rel=1e-3)
    frames = [capture.read()[1] for _ in range(2)]
    expected = tuple(side + side % 2 for side in size) if max(size) < 8190 else (4, 8190)
    assert frames[1].shape[:2] == expected and abs(frames[1].mean() - 120) < 8


def test_names_are_cut_between_letters():
    assert shorten("a" * 300) == "a" * 180 and shorten("圆" * 100) == "圆" * 60 and shorten("short") == "short"
