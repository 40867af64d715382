"""Sliced inference: an image seen as overlapping windows at full resolution, and their boxes merged in its frame.

Windows lie as in sliced training (`data.tiles`) and in SAHI (Akyon et al. 2022). Each is placed in the model's input as
an image of its own. `val.py` and `detect.py` both come here, so they find the same boxes.

Legend: T windows of one image, N boxes of one image, H, W pixels of the model's frame.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import paint, resize
from data.images.placement import Placement
from data.tiles import starts
from engine.inference.merging.views import WHOLE, Boxes, merge_views
from engine.inference.runtimes.base import Runtime
from utils.errors import UserError
from utils.reporting.stage_clock import StageClock
from utils.select import SelectConfig, Selector
from utils.structures import Detections, Letterbox

BATCH = 16  # views that the model sees at once, where nothing else is asked for
STAGES = ("full", "windows", "merge")

Predict = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Slicing:
    """How images are cut, and how what is found is merged.

    size: pixels of a window's sides in the image; overlap: of neighbouring windows, as a fraction of it; with_full: the
    whole image is one more view; merge: a method of `merging.views`.
    """

    size: int
    overlap: float = 0.2
    with_full: bool = False
    merge: str = "nmm"


def windows(height: int, width: int, slicing: Slicing) -> np.ndarray:
    """x1, y1, x2, y2 (T, 4) of the windows of an image, row by row; one, the image, where it is no larger."""
    overlap = round(slicing.size * slicing.overlap)
    y, x = np.meshgrid(starts(height, slicing.size, overlap), starts(width, slicing.size, overlap), indexing="ij")
    corners = np.stack((x.ravel(), y.ravel()), 1)
    return np.concatenate((corners, np.minimum(corners + slicing.size, (width, height))), 1)


@dataclass
class Sliced:
    """What was found in one image, in its frame: full, from the whole image (None where it was not looked at so);
    windows, from all windows together, duplicates and all; merged. count: windows; duplicates: before and after merging
    (`Boxes.duplicates`)."""

    full: Detections | None
    windows: Detections
    merged: Detections
    count: int
    duplicates: tuple[int, int]


@dataclass
class _Job:
    """An image of which some views are still to be looked at."""

    size: tuple[int, int]
    windows: np.ndarray
    waiting: int
    found: dict[int, Detections] = field(default_factory=dict)


@dataclass
class _Batch:
    """Views in frames of one size: their pixels (B, H, W, 3) RGB, and the job, number and placement of each."""

    pixels: np.ndarray
    views: list[tuple[_Job, int, Letterbox]] = field(default_factory=list)


@dataclass(frozen=True)
class Views:
    """How views are looked at, beside the model's own ways. select, predict: `Runtime.select` and `Runtime.predict` by
    default; batch: views that the model sees at once, of several images where they are small; limit: most detections
    of an image after merging, None: all; always_full: look at the whole image too where it is not merged."""

    select: Selector | None = None
    predict: Predict | None = None
    batch: int = BATCH
    limit: int | None = None
    always_full: bool = False


VIEWS = Views()


class SlicedDetector:
    """Looks at images in slices. size: of `Runtime.choose_size`. clock: seconds of each stage so far."""

    def __init__(self, runtime: Runtime, size: tuple[int, int], thresholds: SelectConfig, slicing: Slicing,
                 views: Views = VIEWS) -> None:
        self.runtime, self.thresholds, self.slicing, self.views = runtime, thresholds, slicing, views
        self.placement = Placement(runtime.frame, size)
        self.clock = StageClock(runtime.device, STAGES)
        self._select, self._predict = views.select or runtime.select, views.predict or runtime.predict
        self._open: dict[tuple[bool, tuple[int, int]], _Batch] = {}

    def twin(self) -> "SlicedDetector":
        """The same for another thread: it shares the model, and has a clock and batches of its own."""
        twin = copy.copy(self)
        twin.clock, twin._open = StageClock(self.runtime.device, STAGES), {}
        return twin

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Sliced]:
        """What is found in each image (h, w, 3) uint8 BGR, in order. Some images may be asked for ahead."""
        jobs: list[_Job] = []
        for image in images:
            jobs.append(self._add(image))
            while jobs and len(jobs) > max(2, self.views.batch // len(jobs[0].windows)):
                # The first has a view in a frame that is rare, as each image may have one of its own when it is whole.
                self._flush(jobs[0])
                yield from self._finished(jobs)
            yield from self._finished(jobs)
        for job in jobs:
            self._flush(job)
        yield from self._finished(jobs)

    def _finished(self, jobs: list[_Job]) -> Iterator[Sliced]:
        while jobs and not jobs[0].waiting:
            yield self._merged(jobs.pop(0))

    def _add(self, image: np.ndarray) -> _Job:
        height, width = image.shape[:2]
        cuts = windows(height, width, self.slicing)
        sees_all = len(cuts) > 1 and (self.slicing.with_full or self.views.always_full)
        job = _Job((height, width), cuts, len(cuts) + sees_all)
        self.clock.start()
        if sees_all:
            self._put(job, WHOLE, image)
            self.clock.lap("full")
        for number, (x1, y1, x2, y2) in enumerate(cuts.tolist()):
            self._put(job, number, image[y1:y2, x1:x2])
        self.clock.lap("windows")
        return job

    def _put(self, job: _Job, number: int, view: np.ndarray) -> None:
        """Place a view in the next batch of its frame, which is looked at when it is full."""
        inner, letterbox = self.placement.alone(view.shape[:2])
        key = number == WHOLE, letterbox.input
        if key not in self._open:
            self._open[key] = _Batch(np.empty((self.views.batch, *letterbox.input, 3), np.uint8))
        batch, frame = self._open[key], self.placement.frame
        pixels, (left, top) = batch.pixels[len(batch.views)], letterbox.pad
        if inner != letterbox.input:
            paint(pixels, frame.fill)
        cv2.cvtColor(resize(view, inner, antialias=frame.shrink == "area"), cv2.COLOR_BGR2RGB,
                     dst=pixels[top:top + inner[0], left:left + inner[1]])
        batch.views.append((job, number, letterbox))
        if len(batch.views) == self.views.batch:
            self._look(self._open.pop(key))

    def _flush(self, job: _Job) -> None:
        """Look at the batches that views of an image wait in, full or not."""
        for key in [key for key, batch in self._open.items() if any(view[0] is job for view in batch.views)]:
            self.clock.start()
            self._look(self._open.pop(key))
            self.clock.lap("full" if key[0] else "windows")

    def _look(self, batch: _Batch) -> None:
        letterboxes = [letterbox for _, _, letterbox in batch.views]
        images = torch.from_numpy(batch.pixels[:len(letterboxes)]).permute(0, 3, 1, 2)
        boxes, scores = self._predict(images, self.runtime.content(letterboxes))
        for (job, number, letterbox), found in zip(batch.views, self._select(boxes, scores, self.thresholds),
                                                   strict=True):
            found = found.cpu()
            check_finite(found, self.runtime.path)
            job.found[number] = found.to_original(letterbox)
            job.waiting -= 1

    def _merged(self, job: _Job) -> Sliced:
        self.clock.start()
        full = job.found.pop(WHOLE, None)
        parts = [job.found[number] for number in range(len(job.windows))]
        seen = Boxes.of_views(parts, job.windows, job.size)
        together = Boxes.of_views(parts, job.windows, job.size, full) if self.slicing.with_full else seen
        merged = merge_views(together, job.windows, job.size, self.slicing.merge, self.thresholds.agnostic)
        found = merged.detections(self.views.limit)
        self.clock.lap("merge")
        alone = parts[0] if len(parts) == 1 else None  # the one window is the whole image
        return Sliced(alone if full is None else full, seen.detections(), found, len(parts),
                      (seen.duplicates(), merged.duplicates()))


def check_finite(found: Detections, path: Path | str) -> None:
    """`UserError` where a model, whose file is `path`, finds boxes that are not finite."""
    if not bool(found.boxes.isfinite().all()):
        raise UserError(f"{path}: finds boxes that are not finite; its weights have diverged or are damaged, take "
                        "other ones", "not-finite")
