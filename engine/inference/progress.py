"""What detect.py prints of each image, and at the end."""

import sys
import time
from collections.abc import Callable, Iterable

from engine.inference.detections import ImageDetections
from engine.inference.sources import Source
from utils.class_names import count_classes
from utils.errors import printable

PARTS, SECONDS = 10, 10.0  # of a video in a log: a line for each part, or each so many seconds


class Progress:
    """Prints a line for each image. Where the output is no terminal, frames of videos and streams get one for each
    tenth of the video, or every 10 seconds. hint: of (height, width) of an image gives lines to add."""

    def __init__(self, hint: Callable[[int, int], Iterable[str]] = lambda height, width: ()) -> None:
        self.hint = hint
        self.every_frame = sys.stdout.isatty()
        self._last: dict[str, tuple[int, float]] = {}  # by path: the part and the time of the last line

    def add(self, found: ImageDetections) -> None:
        """Print the line of an image, if it is due."""
        if self.every_frame or found.frame.is_still or self._is_due(found):
            print(line_of(found), *self.hint(*found.image.shape[:2]), sep="\n", flush=True)

    def _is_due(self, found: ImageDetections) -> bool:
        frame, now = found.frame, time.monotonic()
        part = frame.index * PARTS // frame.frames if frame.frames else 0
        before = self._last.get(frame.path)
        due = before is None or part != before[0] or now - before[1] > SECONDS
        if due:
            self._last[frame.path] = part, now
        return due


def line_of(found: ImageDetections) -> str:
    """What is printed of one image."""
    counts = count_classes(found.labels.tolist(), found.names) or "no detections"
    return f"{found.frame}: {found.seen} {printable(counts)}, {1e3 * found.seconds:.1f} ms"


def print_end(frames: Source, images: int, speed: str, interrupted: bool) -> None:
    """Say what was read and what was not, and how fast."""
    for what, lines in (("skipped", frames.skipped), ("incomplete:", frames.incomplete), ("stream", frames.notes)):
        for line in lines:
            print(f"{what} {printable(line)}")
    count = f"{images} image{'s' * (images != 1)}"
    skipped = f", {len(frames.skipped)} skipped" if frames.skipped else ""
    print(f"{f'interrupted after {count}' if interrupted else count}{skipped}; {speed}")
