"""The result videos that are being written: one of a file, or one of each stream in segments."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.inference.sources import Frame
from engine.inference.writing.video import VideoFile

SEGMENT = 600.0  # seconds of a stream in one file, so that a stream without end leaves finished files behind


class Videos:
    """Writes each frame to the video of its file or stream. vid_stride: of the frames' numbers."""

    def __init__(self, folder: Callable[[], Path], vid_stride: int) -> None:
        self.folder, self.vid_stride = folder, vid_stride
        self.finished = 0
        self._open: dict[str, tuple[VideoFile, float]] = {}  # by path: the video and the time of its first frame
        self._last: dict[str, int] = {}
        self._segments: Counter[str] = Counter()

    def add(self, frame: Frame, stem: str, drawn: np.ndarray) -> None:
        """Write one frame, (H, W, 3) uint8 BGR, that is called `stem` in the results."""
        if frame.kind == "video":
            self._finish([path for path in self._open if path != frame.path])  # files come one after another
        if frame.path in self._open and self._is_over(frame, drawn):
            self._finish([frame.path])
        if frame.path not in self._open:
            number = ""
            if frame.kind == "stream":
                self._segments[frame.path] += 1
                number = f"_{self._segments[frame.path]:04d}"
            path = self.folder() / f"{stem}{number}.mp4"
            self._open[frame.path] = VideoFile(path, frame.fps / self.vid_stride, *drawn.shape[:2]), frame.time
        video, first = self._open[frame.path]
        video.write(drawn, round((frame.time - first) * frame.fps / self.vid_stride))
        self._last[frame.path] = frame.index

    def _is_over(self, frame: Frame, drawn: np.ndarray) -> bool:
        """Whether the open video of this file or stream does not take the frame: it has begun anew, or is long."""
        video, first = self._open[frame.path]
        if frame.index <= self._last[frame.path]:
            return True
        return frame.kind == "stream" and (frame.time - first > SEGMENT or drawn.shape[:2] != video.shape)

    def _finish(self, paths: list[str]) -> None:
        for path in paths:
            self._open.pop(path)[0].close()
            self.finished += 1

    def close(self) -> None:
        """Finish all. Raises `UserError` if one cannot be written."""
        self._finish(list(self._open))

    def drop(self) -> None:
        """Remove what is unfinished."""
        while self._open:
            self._open.popitem()[1][0].drop()
