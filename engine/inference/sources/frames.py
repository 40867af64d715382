"""One image of a source, and what all sources have in common."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from utils.errors import printable


@dataclass(frozen=True)
class Frame:
    """One image (H, W, 3) uint8 BGR of the file, or of the stream, `path`.

    index: number of the frame in its video or stream, 0 for an image; frames: number of frames that the video announces
    (0 if unknown), 1 for an image; fps: frames per second that the video or stream announces, 0 for an image; clock: of
    a live stream, seconds from its start at which the frame came. The `path` of a stream has no secrets in it
    (`addresses.without_secrets`).
    """

    path: str
    index: int
    image: np.ndarray
    kind: Literal["image", "video", "stream"]
    fps: float = 0.0
    frames: int = 1
    clock: float | None = None

    def __str__(self) -> str:
        if self.is_still:
            return f"image {printable(self.path)}"
        total = f"/{self.frames or '?'}" if self.kind == "video" else ""
        return f"{self.kind} {printable(self.path)} frame {self.index + 1}{total}"

    @property
    def is_still(self) -> bool:
        """Whether it is an image of its own, not a frame of a video or stream."""
        return self.kind == "image"

    @property
    def time(self) -> float | None:
        """Seconds from the start of the video or stream; None for an image. Cameras send fewer frames in the dark, and
        the announced rate of motion JPEG is a guess, so that of a live stream the clock counts."""
        if self.clock is not None or not self.fps:
            return self.clock
        return self.index / self.fps

    @property
    def stem(self) -> str:
        """What result files are called after: the name of a file without its suffix, the address of a stream."""
        if self.kind != "stream":
            return Path(self.path).stem
        address = re.sub(r"^[a-z0-9+.-]+:/+(\S*@)?", "", self.path.replace("?...", ""))
        return re.sub(r"[^\w.-]+", "_", address).strip("_.") or "stream"


class Source:
    """An iterable of `Frame`s; subclasses implement `_frames`.

    After a pass, `skipped` lists what could not be read at all and why, `incomplete` what was read in part, and `notes`
    what else is worth knowing.
    """

    def __init__(self, source: str) -> None:
        self.source, self.stopped = source, False
        self.skipped: list[str] = []
        self.incomplete: list[str] = []
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        """Raises `UserError` if there is not one frame."""
        self.skipped, self.incomplete, self.notes, self.stopped = [], [], [], False
        for frame in self._frames():
            if self.stopped:  # here rather than below: a frame that was read while the signal came is not looked at
                return
            yield frame
            if self.stopped:
                return

    @property
    def is_endless(self) -> bool:
        """Whether its frames may be more than fit into memory, as those of a video or stream."""
        return True

    def _frames(self) -> Iterator[Frame]:
        raise NotImplementedError

    def stop(self) -> None:
        """End the pass after the frame in work; takes no lock, so a signal handler may call it."""
        self.stopped = True
