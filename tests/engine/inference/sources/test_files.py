from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import engine.inference.sources.videos
from engine.inference.sources import is_image, is_video, open_source
from tests.data.pictures import smooth
from tests.refusals import refused


def _image(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.full((30, 40, 3), value, np.uint8))[1].tobytes())
    return path


def _video(path: Path, frames: int = 7, code: str = "MJPG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 12.0, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 30 * i % 256, np.uint8))
    writer.release()
    return path


def test_one_image(tmp_path):
    path = _image(tmp_path / "a.png")
    source = open_source(str(path))
    frames = list(source)
    assert len(source) == len(frames) == 1 and source.skipped == []
    assert (frames[0].path, frames[0].kind, frames[0].index, frames[0].frames) == (str(path), "image", 0, 1)
    assert frames[0].image.shape == (30, 40, 3) and (frames[0].image == 90).all()


def test_images_come_as_bgr(tmp_path):
    image = smooth(20, 20)
    (tmp_path / "c.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    assert np.array_equal(next(iter(open_source(str(tmp_path / "c.png")))).image, image)


@pytest.mark.parametrize(("name", "code"), [("v.avi", "MJPG"), ("v.mp4", "mp4v")])
@pytest.mark.parametrize("stride", [1, 3])
def test_video_frames_and_stride(tmp_path, name, code, stride):
    frames = list(open_source(str(_video(tmp_path / name, 7, code)), vid_stride=stride))
    assert [f.index for f in frames] == list(range(0, 7, stride))
    for frame in frames:
        assert frame.kind == "video" and frame.fps == pytest.approx(12) and frame.frames == 7
        assert abs(frame.image.mean() - 30 * frame.index) < 6


def test_folder_mixes_images_and_videos_and_does_not_descend(tmp_path):
    _image(tmp_path / "b.jpg")
    _image(tmp_path / "Ünïcode 图.PNG")
    _video(tmp_path / "a.avi", 2)
    _image(tmp_path / "deeper" / "no.jpg")
    (tmp_path / "notes.md").write_text("not a picture")
    frames = list(open_source(str(tmp_path)))
    assert [Path(f.path).name for f in frames] == ["a.avi", "a.avi", "b.jpg", "Ünïcode 图.PNG"]


def test_globs_and_names_with_brackets(tmp_path):
    for name in ("x1.jpg", "x2.jpg", "y.jpg", "z[1].jpg"):
        _image(tmp_path / name)
    assert len(list(open_source(str(tmp_path / "x*.jpg")))) == 2
    assert len(list(open_source(str(tmp_path / "**" / "*.jpg")))) == 4
    assert Path(next(iter(open_source(str(tmp_path / "z[1].jpg")))).path).name == "z[1].jpg"


def test_list_files_find_paths_from_here_or_from_the_list(tmp_path):
    first, second = _image(tmp_path / "a.jpg"), _image(tmp_path / "sub" / "b.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text(f"# two of three\n{first}\n\n  sub/b.jpg  \ngone.jpg\n")
    source = open_source(str(listing))
    assert [f.path for f in source] == [str(first), str(second)]
    assert source.skipped == [f"{tmp_path / 'gone.jpg'}: no such file"]


def test_unreadable_images_are_counted_every_pass(tmp_path):
    _image(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(_image(tmp_path / "good2.jpg").read_bytes()[:300])
    source = open_source(str(tmp_path))
    for _ in range(2):
        assert len(list(source)) == 2
        assert source.skipped == [f"{tmp_path / 'bad.jpg'}: cut short: a JPEG without its end"]


def test_a_source_that_yields_nothing_is_an_error(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"text")
    for source in (tmp_path / "bad.jpg", tmp_path):
        with refused("unreadable-source", str(source)):
            list(open_source(str(source)))
    (tmp_path / "worse.jpg").write_bytes(b"")
    with refused("unreadable-source", str(tmp_path), r"\b2 files"):
        list(open_source(str(tmp_path)))


def test_a_video_cut_off_is_told(tmp_path):
    path = _video(tmp_path / "v.avi", 40)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    source = open_source(str(path))
    seen = len(list(source))
    assert 0 < seen < 40
    assert source.skipped == [] and source.incomplete == [f"{path}: ends after {seen} of 40 frames"]


@pytest.mark.parametrize(("make", "code", "named"), [
    (lambda d: d / "nowhere.jpg", "missing-file", r"nowhere\.jpg"),
    (lambda d: d / "*.jpg", "no-images", r"\*\.jpg"),
    (lambda d: d, "no-images", "jpg"),
    (lambda d: "gopher://host/stream", "unsupported-source", "rtsp://"),
    (lambda d: "rtsp:/host/stream", "unsupported-source", "rtsp://"),
])
def test_wrong_sources_are_told_with_the_cure(tmp_path, make, code, named):
    with refused(code, named):
        open_source(str(make(tmp_path)))


def test_wrong_files_are_told_before_the_first_frame(tmp_path):
    _image(tmp_path / "ok.jpg")
    (tmp_path / "torn.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and then nothing")
    with refused("unreadable-source", r"torn\.mp4"):
        open_source(str(tmp_path / "torn.mp4"))
    (tmp_path / "model.pt").write_bytes(b"x")
    with refused("no-images", r"model\.pt"):
        open_source(str(tmp_path / "model.pt"))
    (tmp_path / "list.txt").write_text("ok.jpg\nmodel.pt\n")
    with refused("bad-list", r"list\.txt", r"model\.pt"):
        open_source(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("\n")
    with refused("bad-list", r"list\.txt"):
        open_source(str(tmp_path / "list.txt"))
    with refused("bad-value", "--vid-stride 0"):
        open_source(str(tmp_path / "ok.jpg"), vid_stride=0)


def test_one_video_that_cannot_be_opened_is_told_and_the_others_go_on(tmp_path):
    _video(tmp_path / "a.avi", 3)
    (tmp_path / "b.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and then nothing")
    (tmp_path / "c.mov").write_bytes(b"")
    _image(tmp_path / "d.png")
    source = open_source(str(tmp_path))
    assert [Path(f.path).name for f in source] == ["a.avi"] * 3 + ["d.png"]
    assert [line.partition(": ")[0] for line in source.skipped] == [str(tmp_path / n) for n in ("b.mp4", "c.mov")]
    assert all("cannot be opened as a video" in line for line in source.skipped)


def test_frames_that_cannot_be_decoded_are_counted(tmp_path, monkeypatch):
    real = engine.inference.sources.videos.retrieve
    lost = iter([False, True, True])
    monkeypatch.setattr(engine.inference.sources.videos, "retrieve", lambda c: None if next(lost, False) else real(c))
    source = open_source(str(_video(tmp_path / "a.avi", 5)))
    assert [f.index for f in source] == [0, 3, 4]
    assert source.skipped == [] and source.incomplete == [f"{tmp_path / 'a.avi'}: 2 of 5 frames cannot be decoded"]


@pytest.mark.parametrize("fps", [0.0, float("nan"), -5.0, 1e6, float("inf")])
def test_a_rate_that_cannot_be_is_thirty(tmp_path, monkeypatch, fps):
    real = cv2.VideoCapture
    path = str(_video(tmp_path / "a.avi", 2))

    class Odd:
        def __init__(self, name):
            self.capture = real(name)

        def get(self, prop):
            return fps if prop == cv2.CAP_PROP_FPS else self.capture.get(prop)

        def __getattr__(self, name):
            return getattr(self.capture, name)

    monkeypatch.setattr(cv2, "VideoCapture", Odd)
    assert {f.fps for f in open_source(path)} == {30.0}


def test_a_gif_is_an_image_or_a_video_by_what_it_holds(tmp_path):
    still, moving = Image.new("RGB", (20, 10), (1, 2, 250)), Image.new("RGB", (20, 10), (250, 2, 1))
    still.save(tmp_path / "a.gif")
    still.save(tmp_path / "b.gif", save_all=True, append_images=[moving, still], duration=100)
    first, *others = open_source(str(tmp_path))
    assert first.kind == "image" and first.image[5, 5].tolist() == [250, 2, 1]
    assert {f.kind for f in others} == {"video"} and len(others) >= 3


def test_a_photograph_named_gif_has_the_pixels_of_a_photograph(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth(48, 64))
    (tmp_path / "a.jpg").rename(tmp_path / "a.gif")
    frame, = open_source(str(tmp_path / "a.gif"))
    assert frame.kind == "image"
    assert np.array_equal(frame.image, cv2.imdecode(np.fromfile(tmp_path / "a.gif", np.uint8), cv2.IMREAD_COLOR))


def test_photographs_of_phones_that_are_not_read_are_told(tmp_path):
    _image(tmp_path / "a.png")
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    source = open_source(str(tmp_path))
    assert len(list(source)) == 1
    assert source.skipped == [f"{tmp_path / 'b.HEIC'}: HEIC, which cannot be read here; convert it to JPEG or PNG"]


def test_suffixes():
    assert is_image("A.JPG") and is_image(Path("b.webp")) and not is_image("c.mp4")
    assert is_video("c.MP4") and not is_video("c.txt")
