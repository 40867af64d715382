"""Following objects from frame to frame, with the trackers of the package `trackers` (Apache-2.0).

ByteTrack: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", 2022, section 3.
OC-SORT: Cao et al., "Observation-Centric SORT", 2023.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.inference.detections import ImageDetections
from engine.inference.sources import Frame
from utils.errors import UserError

LOW_SCORE = 0.1  # ByteTrack: weaker detections than `--conf-thres`, from this score on, may continue an object
NO_ID = -1  # of a detection that was not seen in a second frame yet
METHODS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker"}


class Tracker:
    """Gives detections the ids of their objects, from 1, unique in a run; a video or stream has its own trackers, one
    for each class. Pictures of one folder count as a video, in their order.

    method: of `METHODS`; score: least score of a detection that begins an object. Raises `UserError` if the package is
    missing.
    """

    def __init__(self, method: str, score: float) -> None:
        self.score, self.objects = score, 0
        self._make = _tracker_class(method)
        self._options = {"high_conf_det_threshold": score, "minimum_consecutive_frames": 2}
        if method == "bytetrack":
            self._options["track_activation_threshold"] = score
        self._sequences: dict[str, _Sequence] = {}

    def __call__(self, found: ImageDetections) -> ImageDetections:
        """The detections of the next frame with `ids` (N,), `NO_ID` in the first frame of an object. Those below
        `score` are left out unless they continue an object."""
        sequence = self._sequence(found.frame)
        ids = torch.from_numpy(sequence.update(found))
        kept = (ids != NO_ID) | (found.scores >= self.score)
        return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept],
                       ids=ids[kept])

    def _sequence(self, frame: Frame) -> "_Sequence":
        key = str(Path(frame.path).parent) if frame.is_still else frame.path
        known = self._sequences.get(key)
        if known is not None and (frame.is_still or frame.index > known.last):
            return known
        if frame.kind != "stream":  # files come one after another
            self._sequences.clear()
        rate = {"frame_rate": frame.fps} if frame.fps else {}
        self._sequences[key] = _Sequence(lambda: self._make(**self._options, **rate), self._next_id)
        return self._sequences[key]

    def _next_id(self) -> int:
        self.objects += 1
        return self.objects

    def summary(self) -> str:
        """How many objects were followed."""
        return f"followed {self.objects} object{'s' * (self.objects != 1)}"


class _Sequence:
    """The trackers of one video, by class. make: a new one; next_id: a free id; last: index of the last frame."""

    def __init__(self, make: Callable[[], Any], next_id: Callable[[], int]) -> None:
        self.make, self.next_id, self.last = make, next_id, -1
        self.trackers: dict[int, Any] = {}
        self.ids: dict[tuple[int, int], int] = {}  # (class, the tracker's own id) -> id

    def update(self, found: ImageDetections) -> np.ndarray:
        """(N,) int64 ids of the detections in the next frame."""
        from supervision import Detections

        frame, labels = found.frame, found.labels.numpy()
        boxes, scores = found.boxes.double().numpy(), found.scores.double().numpy()
        ids = np.full(len(found), NO_ID, np.int64)
        for label in sorted({*self.trackers, *labels.tolist()}):
            if label not in self.trackers:
                self.trackers[label] = self.make()
            rows = np.flatnonzero(labels == label)
            part = Detections(xyxy=boxes[rows], confidence=scores[rows], data={"row": rows})
            # the time of the frame is right also where frames were left out
            told = self.trackers[label].update(part, timestamp=frame.time)
            for row, own in zip(told.data.get("row", ()), told.tracker_id, strict=True):
                if own >= 0:
                    ids[row] = self._id(label, int(own))
        self.last = frame.index
        return ids

    def _id(self, label: int, own: int) -> int:
        if (label, own) not in self.ids:
            self.ids[label, own] = self.next_id()
        return self.ids[label, own]


def _tracker_class(method: str) -> Any:
    try:
        import trackers

        return getattr(trackers, METHODS[method])
    except (ImportError, AttributeError):
        raise UserError('--track: needs trackers, 2.6 or later; pip install "assn[track]"', "missing-package") from None
