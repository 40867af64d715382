"""Sliced inference: an image seen as overlapping windows at full resolution, and their boxes merged in its frame.

Windows lie as in sliced training (`data.tiles`) and in SAHI (Akyon et al. 2022). Each is placed in the model's input as
an image of its own. `val.py` and `detect.py` both come here, so they find the same boxes.

Legend: T windows of one image, N boxes of one image, H, W pixels of the model's frame.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import paint, resize
from data.images.placement import Placement
from data.tiles import starts
from engine.inference.merging.views import Boxes
from engine.inference.runtime import Runtime
from utils.reporting.stage_clock import StageClock
from utils.select import SelectConfig, Selector
from utils.structures import Detections, Letterbox

WHOLE = -1  # the number of the view that shows the whole image
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
    windows, from all windows together, duplicates and all; merged. duplicates: see `merging.views.duplicates`, before
    merging and after."""

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


class SlicedDetector:
    """Looks at images in slices.

    size: of `Runtime.choose_size`; select: `runtime.select` by default; predict: `runtime.predict` by default; batch:
    views that the model sees at once, of several images where they are small; limit: most detections of an image after
    merging, None: all. always_full: look at the whole image too where it is not merged. clock: seconds of each stage.
    """

    def __init__(self, runtime: Runtime, size: tuple[int, int], thresholds: SelectConfig, slicing: Slicing, *,
                 select: Selector | None = None, predict: Predict | None = None, batch: int = BATCH) -> None:
        self.runtime, self.thresholds, self.slicing, self.batch = runtime, thresholds, slicing, batch
        self.placement = Placement(runtime.frame, size)
        self.select, self.predict = select or runtime.select, predict or runtime.predict
        self.limit: int | None = None
        self.always_full = False
        self.clock = StageClock(runtime.device, STAGES)
        self._open: dict[tuple[bool, tuple[int, int]], _Batch] = {}

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Sliced]:
        """What is found in each image (h, w, 3) uint8 BGR, in order. Some images may be asked for ahead."""
        jobs: list[_Job] = []
        for image in images:
            jobs.append(self._add(image))
            if len(jobs) > self.batch:  # frames of their own sizes would wait for ever
                self._flush()
            yield from self._finished(jobs)
        self._flush()
        yield from self._finished(jobs)

    def _finished(self, jobs: list[_Job]) -> Iterator[Sliced]:
        while jobs and not jobs[0].waiting:
            yield self._merged(jobs.pop(0))

    def _add(self, image: np.ndarray) -> _Job:
        height, width = image.shape[:2]
        cuts = windows(height, width, self.slicing)
        sees_all = self.slicing.with_full or self.always_full
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
            self._open[key] = _Batch(np.empty((self.batch, *letterbox.input, 3), np.uint8))
        batch, frame = self._open[key], self.placement.frame
        pixels, (left, top) = batch.pixels[len(batch.views)], letterbox.pad
        if inner != letterbox.input:
            paint(pixels, frame.fill)
        cv2.cvtColor(resize(view, inner, antialias=frame.shrink == "area"), cv2.COLOR_BGR2RGB,
                     dst=pixels[top:top + inner[0], left:left + inner[1]])
        batch.views.append((job, number, letterbox))
        if len(batch.views) == self.batch:
            self._look(self._open.pop(key))

    def _flush(self) -> None:
        for key in list(self._open):
            self.clock.start()
            self._look(self._open.pop(key))
            self.clock.lap("full" if key[0] else "windows")

    def _look(self, batch: _Batch) -> None:
        letterboxes = [letterbox for _, _, letterbox in batch.views]
        images = torch.from_numpy(batch.pixels[:len(letterboxes)]).permute(0, 3, 1, 2)
        boxes, scores = self.predict(images, self.runtime.content(letterboxes))
        for (job, number, letterbox), found in zip(batch.views, self.select(boxes, scores, self.thresholds),
                                                   strict=True):
            job.found[number] = found.cpu().to_original(letterbox)
            job.waiting -= 1

    def _merged(self, job: _Job) -> Sliced:
        self.clock.start()
        full = job.found.pop(WHOLE, None)
        cuts = list(job.windows)
        parts = [job.found[number] for number in range(len(cuts))]
        seen = Boxes.of_views(parts, cuts, job.size)
        together = Boxes.of_views([*parts, full], [*cuts, None], job.size) if self.slicing.with_full else seen
        merged = merge_views(together, self.slicing.merge)
        before, after = seen.duplicates(), merged.duplicates()
        found = merged.detections(self.limit)
        self.clock.lap("merge")
        return Sliced(full, seen.detections(), found, len(cuts), (before, after))
