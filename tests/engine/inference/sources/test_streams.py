"""Cameras and streams: newest frame, reconnection, time-outs, several at once; against a server on the loopback."""

import socket
import threading
import time

import cv2
import numpy as np
import pytest

import engine.inference.sources.capture
from engine.inference.sources import Patience, open_source
from tests.engine.inference.sources.server import camera_server
from tests.refusals import refused

QUICK = Patience(timeout=0.25, reconnect=0.0, first=0.02, longest=0.05)
SECRETS = ["rtsp://user:pw@192.0.2.7:554/a", "rtsp://user:p%40w@h/b?token=pw", "http://u:p@w/w@host/a.mjpg?key=pw"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if ":/" in t.name or t.name.startswith("camera")]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_stream_gives_its_frames_in_order_and_ends():
    with camera_server(lambda path, n: range(60)) as server:
        source = open_source(server.url("cam"), patience=QUICK)
        frames = list(source)
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices)) and indices[-1] >= 55 and len(source) == 1
    first = frames[0]
    assert first.kind == "stream" and first.image.shape == (48, 64, 3)
    assert first.stem == f"127.0.0.1_{server.server_port}_cam"
    assert first.path == f"http://***@127.0.0.1:{server.server_port}/cam?..." and "stream http://***" in str(first)
    times = [frame.time for frame in frames]
    assert times == sorted(times) and times[0] >= 0 and times[-1] < 20
    assert source.skipped == [] and "broke off" in source.incomplete[0]
    assert int(source.notes[0].rpartition(": ")[2].split()[0]) == indices[-1] + 1


def test_a_slow_reader_gets_the_newest_and_the_rest_is_counted():
    with camera_server(lambda path, n: range(100)) as server:
        source = open_source(server.url("cam"), patience=QUICK)
        seen = []
        for frame in source:
            seen.append((frame.index, frame.image.mean()))
            time.sleep(0.05)
    assert 2 <= len(seen) < 30 and f"{seen[-1][0] + 1 - len(seen)} dropped" in source.notes[0]
    assert all(abs(shade - index) < 4 for index, shade in seen)  # each is the frame that it says it is


def test_every_nth_frame_of_a_stream():
    with camera_server(lambda path, n: range(40)) as server:
        frames = list(open_source(server.url("cam"), vid_stride=8, patience=QUICK))
    assert {frame.index % 8 for frame in frames} == {0} and len(frames) > 1


@pytest.mark.parametrize("end", [[], [3.0]], ids=["breaks", "stalls"])
def test_a_stream_that_breaks_or_stalls_is_connected_again(capsys, end):
    def script(path, number):
        return {1: [*range(10), *end], 3: range(100, 110)}.get(number)

    with camera_server(script) as server:
        source = open_source(server.url("cam"), patience=Patience(0.25, 0.5, 0.02, 0.05))
        frames = list(source)
    told = capsys.readouterr().out
    assert "trying again in 0.02 s" in told and "trying again in 0.04 s" in told and "pw" not in told
    assert frames[0].image.mean() < 60 and frames[-1].image.mean() > 90
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices)) and 10 <= indices[-1] < 100
    assert "connected again" in source.notes[0]


def test_several_streams_are_interleaved_and_one_that_is_absent_is_told(tmp_path):
    with camera_server(lambda path, n: None if "absent" in path else range(80)) as server:
        listing = tmp_path / "all.streams"
        listing.write_text("".join(f"{server.url(name)}\n" for name in ("a", "b", "b", "absent")) + "# none\n\n")
        source = open_source(str(listing), patience=QUICK)
        frames = list(source)
    names = [frame.path for frame in frames]
    assert len(source) == 4 and len(set(names)) == 3 and len({frame.stem for frame in frames}) == 3
    assert sum(name != other for name, other in zip(names, names[1:], strict=False)) > 3
    assert len(source.skipped) == 1 and "absent" in source.skipped[0]
    assert "pw" not in "".join(names + source.skipped + source.notes)


def test_a_pass_that_is_left_or_stopped_ends_its_threads():
    with camera_server(lambda path, n: range(1000)) as server:
        source = open_source(server.url("cam"), patience=QUICK)
        next(iter(source))
        count = 0
        for _ in source:
            count += 1
            if count == 3:
                source.stop()
        assert count == 3 and source.incomplete == []


def test_what_cannot_be_reached_is_one_sentence(capfd):
    with refused("unreachable-source", "refused", r"rtsp://\*\*\*@") as told:
        list(open_source(f"rtsp://user:pw@127.0.0.1:{closed_port()}/cam", patience=QUICK))
    said = capfd.readouterr()  # FFmpeg's own line is there where another test has opened a video before
    assert "pw" not in f"{told.value} {said.out} {said.err}" and said.out == ""
    with camera_server(lambda path, n: None) as server, refused("unreachable-source", "answers, but not"):
        list(open_source(server.url("gone"), patience=QUICK))
    with camera_server(lambda path, n: [1.0]) as server, refused("unreachable-source", "http"):
        list(open_source(server.url("silent"), patience=QUICK))


@pytest.mark.parametrize("source", SECRETS)
@pytest.mark.parametrize("suffix", ["", ".txt", ".streams"])
def test_a_password_is_never_printed(tmp_path, monkeypatch, capfd, source, suffix):
    place = source
    if suffix:
        place = tmp_path / f"cameras{suffix}"
        place.write_text(f"{source}\n{source}2\n")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: 1 / 0)  # no network
    monkeypatch.setattr(engine.inference.sources.capture, "why_unreachable", lambda *_: "no network")
    with refused("unreachable-source", "no network") as told:
        list(open_source(str(place), patience=QUICK))
    text = str(told.value) + "".join(capfd.readouterr())
    assert "pw" not in text and "p@w" not in text and "p%40w" not in text


@pytest.mark.parametrize("source", ["https://example.org/bus.jpg?sig=pw", "http://u:p@w/w@host/a.jpg?key=pw",
                                    "rtsp:/user:pw@host/a", "ftp://user:pw@host/a.mp4"])
def test_urls_that_are_no_streams_are_refused_without_their_passwords(source):
    with refused("unsupported-source") as told:
        open_source(source)
    assert "pw" not in str(told.value) and "p@w" not in str(told.value)


def test_files_and_streams_are_not_mixed(tmp_path):
    (tmp_path / "list.txt").write_text("rtsp://host/a\nclip.mp4\n")
    with refused("bad-list", r"clip\.mp4"):
        open_source(str(tmp_path / "list.txt"))


class Device:
    """What `cv2.VideoCapture` gives for a camera: `frames` frames, then `end()`."""

    def __init__(self, frames, end=lambda: False, size=(48, 64)):
        self.left, self.end, self.size = frames, end, size

    def isOpened(self):
        return True

    def get(self, prop):
        return {cv2.CAP_PROP_FPS: 15.0, cv2.CAP_PROP_FRAME_COUNT: -1.0, cv2.CAP_PROP_FRAME_HEIGHT: self.size[0],
                cv2.CAP_PROP_FRAME_WIDTH: self.size[1]}[prop]

    def grab(self):
        self.left -= 1
        return True if self.left >= 0 else self.end()

    def retrieve(self):
        return True, np.full((*self.size, 3), 7, np.uint8)

    def release(self):
        pass


def test_a_camera(monkeypatch):
    asked = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *words: asked.append(words) or Device(3))
    source = open_source("0", patience=QUICK)
    frames = list(source)
    assert asked == [(0,)] and frames[-1].index == 2 and frames[0].fps == 15.0
    assert (frames[0].path, frames[0].stem) == ("camera 0", "camera_0")
    with refused("unreachable-source", "camera 0", "--max-pixels"):
        list(open_source("0", max_pixels=100, patience=QUICK))


def test_a_camera_whose_driver_never_answers_is_given_up(monkeypatch):
    wake = threading.Event()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Device(2, end=lambda: wake.wait(20)))
    source = open_source("0", patience=Patience(timeout=0.05, reconnect=0.0))
    began = time.monotonic()
    assert list(source)[-1].index == 1 and time.monotonic() - began < 2
    wake.set()
    assert "gave no sign" in source.incomplete[0]
    time.sleep(0.05)


def test_a_recording_is_read_whole_and_once(monkeypatch):
    class Recording(Device):
        def get(self, prop):
            return 5.0 if prop == cv2.CAP_PROP_FRAME_COUNT else super().get(prop)

    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: Recording(5))
    source = open_source("http://host/clip.mp4", patience=Patience(0.1, 9.0, 0.02, 0.05))
    frames = [frame for frame in source if not time.sleep(0.01)]
    seen, frame_times = [frame.index for frame in frames], [frame.time for frame in frames]
    assert seen == list(range(5)) and frame_times == [k / 15 for k in range(5)]
    assert source.incomplete == source.skipped == []
