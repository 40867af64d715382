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
from engine.inference.writing.video import VideoFile, has_h264

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


@pytest.fixture(params=["h264", "mpeg4"])
def codec(request, monkeypatch):
    """Both encoders."""
    if request.param == "h264" and not has_h264():
        pytest.skip("PyAV is not installed")
    monkeypatch.setattr("engine.inference.writing.video.has_h264", lambda: request.param == "h264")
    monkeypatch.setattr("engine.inference.writer.has_h264", lambda: request.param == "h264")
    return request.param


@pytest.mark.parametrize(("size", "fps"), [((1, 1), 480 / 7), ((3, 5), 0.5), ((17, 33), float("nan")),
                                           ((4, 9000), 29.97)])
def test_videos_of_any_size_and_rate_are_written(tmp_path, codec, size, fps):
    video = VideoFile(tmp_path / "ü" / "v.mp4", fps, *size)
    for value in (10, 120):
        video.write(np.full((*size, 3), value, np.uint8))
    video.close()
    assert [p.name for p in (tmp_path / "ü").iterdir()] == ["v.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "ü" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps if fps == fps else 30, rel=1e-3)
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert code.lower() in ((b"avc1", b"h264") if codec == "h264" else (b"mp4v", b"fmp4"))
    frames = [capture.read()[1] for _ in range(2)]
    expected = tuple(side + side % 2 for side in size) if max(size) < 8190 else (4, 8190)
    assert frames[1].shape[:2] == expected and abs(frames[1].mean() - 120) < 8


def test_frames_that_were_left_out_do_not_shorten_a_video(tmp_path, codec):
    video = VideoFile(tmp_path / "v.mp4", 10.0, 32, 32)
    for position, value in ((0, 10), (5, 90), (6, 170)):
        video.write(np.full((32, 32, 3), value, np.uint8), position)
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    seen = []
    while capture.grab():
        seen.append((capture.get(cv2.CAP_PROP_POS_MSEC), capture.retrieve()[1].mean()))
    at = {value: min(ms for ms, mean in seen if abs(mean - value) < 8) for value in (10, 90, 170)}
    assert at[90] - at[10] == pytest.approx(500, abs=2) and at[170] - at[90] == pytest.approx(100, abs=2)


def test_streams_are_written_in_pieces(tmp_path, codec, monkeypatch, capsys):
    monkeypatch.setattr("engine.inference.writing.videos.SEGMENT", 0.3)
    with ResultWriter(DetectConfig(project=str(tmp_path)), ["a"]) as results:
        for index in range(8):
            for name in "xy":
                size = 40 if name == "x" or index < 6 else 20  # y comes back with another size
                frame = Frame(f"rtsp://***@host/{name}", index, np.zeros((size, 40, 3), np.uint8), "stream", 10.0)
                results.add(found(frame))
            if index == 5:
                assert (tmp_path / "exp" / "host_x_0001.mp4").stat().st_size  # finished before the end
    names = sorted(p.name for p in (tmp_path / "exp").iterdir())
    assert names == ["host_x_0001.mp4", "host_x_0002.mp4", "host_y_0001.mp4", "host_y_0002.mp4", "host_y_0003.mp4"]
    counts = [cv2.VideoCapture(str(tmp_path / "exp" / name)).get(cv2.CAP_PROP_FRAME_COUNT) for name in names]
    assert counts == [4, 4, 4, 2, 2]
    assert "videos: 5" in results.summary() and ("assn[video]" in results.summary()) == (codec == "mpeg4")


def test_a_stream_plays_as_fast_as_it_came(tmp_path, codec):
    """One that announces 10 frames a second and sends 2."""
    with ResultWriter(DetectConfig(project=str(tmp_path)), ["a"]) as results:
        for k in range(5):
            image = np.zeros((32, 32, 3), np.uint8)
            results.add(found(Frame("camera 0", k, image, "stream", 10.0, 0, 3.0 + 0.5 * k)))
    capture = cv2.VideoCapture(str(tmp_path / "exp" / "camera_0_0001.mp4"))
    times = []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    assert times[-1] - times[0] == pytest.approx(2000, abs=2)


def test_an_error_leaves_rows_of_an_earlier_run(tmp_path):
    config = DetectConfig(nosave=True, save_json=True, save_csv=True, project=str(tmp_path), exist_ok=True)
    frame = Frame("a.png", 0, np.zeros((20, 20, 3), np.uint8), "image")
    with ResultWriter(config, ["a"]) as results:
        results.add(found(frame))
    before = {p.name: p.read_bytes() for p in (tmp_path / "exp").iterdir()}
    assert set(before) == {"predictions.json", "predictions.csv"}
    with pytest.raises(ZeroDivisionError), ResultWriter(config, ["a"]) as results:
        results.add(found(frame))
        results.add(1 / 0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "exp").iterdir()} == before


def test_names_are_cut_between_letters():
    assert shorten("a" * 300) == "a" * 180 and shorten("圆" * 100) == "圆" * 60 and shorten("short") == "short"
