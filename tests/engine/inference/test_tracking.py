"""Ids stay with their objects: across a short occlusion, apart by class, apart by video."""

import sys

import numpy as np
import pytest
import torch

from engine.inference.detections import ImageDetections
from engine.inference.sources import Frame
from engine.inference.tracking import METHODS, Tracker
from tests.refusals import refused

pytest.importorskip("trackers")
NAMES = ["car", "person"]


def seen(index: int, rows: list[tuple[float, float, int]], path: str = "a.mp4", kind: str = "video",
         fps: float = 30.0) -> ImageDetections:
    """rows: (left of a 30 px square, score, class), in falling order of score."""
    boxes = torch.tensor([[left, 10.0, left + 30, 40.0] for left, _, _ in rows]).reshape(-1, 4)
    return ImageDetections(boxes, torch.tensor([score for _, score, _ in rows]),
                           torch.tensor([label for _, _, label in rows], dtype=torch.int64),
                           Frame(path, index, np.zeros((60, 400, 3), np.uint8), kind, fps), NAMES)


@pytest.mark.parametrize("method", METHODS)
def test_ids_stay_across_a_short_occlusion(method):
    """Two objects that meet; one is hidden for three frames, and once only weakly seen."""
    tracker, ids = Tracker(method, 0.25), []
    for k in range(16):
        rows = [(10.0 + 4 * k, 0.9, 0), (300.0 - 4 * k, 0.15 if k == 11 and method == "bytetrack" else 0.8, 0)]
        found = tracker(seen(k, rows[:1] if 6 <= k < 9 else rows))
        ids.append(found.ids.tolist())
    assert ids[0] == [-1, -1] and ids[1] == [1, 2] and ids[7] == [1] and ids[-1] == [1, 2]
    assert all(pair == [1, 2] for pair in ids[9 if method == "bytetrack" else 11:])
    assert tracker.objects == 2 and tracker.summary() == "followed 2 objects"


def test_weak_detections_continue_objects_and_begin_none():
    tracker = Tracker("bytetrack", 0.25)
    for k in range(4):
        found = tracker(seen(k, [(10.0, 0.9 if k < 2 else 0.15, 0), (200.0, 0.14, 0)]))
    assert found.ids.tolist() == [1] and found.scores.tolist() == pytest.approx([0.15])


def test_classes_are_kept_apart():
    tracker = Tracker("bytetrack", 0.25)
    ids = [tracker(seen(k, [(10.0, 0.9, k // 3)])).ids.tolist() for k in range(6)]
    assert ids == [[-1], [1], [1], [-1], [2], [2]]  # at the same place, of another class


def test_videos_and_streams_do_not_share_ids():
    tracker, ids = Tracker("bytetrack", 0.25), {}
    for path in ("a.mp4", "b.mp4", "a.mp4"):  # the same file a second time is a new video
        for k in range(3):
            ids.setdefault(path, []).append(tracker(seen(k, [(10.0, 0.9, 0)], path)).ids.tolist())
    assert ids == {"a.mp4": [[-1], [1], [1], [-1], [3], [3]], "b.mp4": [[-1], [2], [2]]}
    told = [tracker(seen(k, [(10.0, 0.9, 0)], name, "stream")).ids.tolist() for k in range(3) for name in "xy"]
    assert told == [[-1], [-1], [4], [5], [4], [5]]  # interleaved


def test_frames_that_were_left_out_count():
    """An object that moves 5 px in a frame, seen in every third one."""
    tracker = Tracker("bytetrack", 0.25)
    ids = [tracker(seen(k, [(float(10 + 5 * k), 0.9, 0)])).ids.tolist() for k in range(0, 60, 3)]
    assert ids[1:] == [[1]] * 19
    later = [tracker(seen(k, [(float(10 + 5 * k), 0.9, 0)])).ids.tolist() for k in (400, 401)]
    assert later == [[-1], [2]]  # 11 seconds later it is another one


def test_pictures_of_a_folder_are_a_video():
    tracker = Tracker("bytetrack", 0.25)
    ids = [tracker(seen(0, [(10.0, 0.9, 0)], f"{folder}/{k}.jpg", "image", 0.0)).ids.tolist()
           for folder in "ab" for k in range(3)]
    assert ids == [[-1], [1], [1], [-1], [2], [2]]


def test_images_without_detections_and_a_detection_without_an_id():
    tracker = Tracker("bytetrack", 0.25)
    assert tracker(seen(0, [])).ids.tolist() == []
    assert [each.id for each in tracker(seen(1, [(10.0, 0.9, 0)]))] == [None]
    assert [each.id for each in tracker(seen(2, [(10.0, 0.9, 0)]))] == [1]
    assert tracker(seen(3, [])).ids.tolist() == []


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with refused("missing-package", r'pip install "assn\[track\]"'):
        Tracker("bytetrack", 0.25)
