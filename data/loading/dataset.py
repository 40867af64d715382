"""From records to training and evaluation samples. A sample depends on (seed, epoch, position, weights), nothing else.

Legend: H, W pixels of the input frame, N labels of one image, n images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from torch.utils.data import Dataset

from data.augment.copy_paste import draw_pasted
from data.augment.copy_small import draw_copied
from data.augment.geometry import Labels
from data.augment.plan import Plan, Scene
from data.augment.policies.policy import Policy
from data.augment.render import Scratch, plan_labels, render_plan
from data.images.letterbox import forward_boxes, paint, resize
from data.images.placement import Placement
from data.images.store import ImageStore
from data.labels.records import Record, RecordTable
from data.loading.epoch_order import EpochOrder
from utils.frame import Frame
from utils.structures import Letterbox

Key = int | tuple[int, int] | tuple[int, int, bool]  # position, (epoch, position), or (epoch, position, mosaic allowed)


class Frames(Protocol):
    """The (height, width) of the frame at (epoch, position), and of the largest there can be."""

    largest: tuple[int, int]

    def __call__(self, epoch: int, position: int) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Sample:
    """One image ready for a batch: image (H, W, 3) RGB uint8; boxes (N, 4) float32 xyxy pixels of the input frame;
    labels (N,) int64; ignore (N,) bool; the image's id; and how its original frame was placed in the input frame
    (an augmented sample is a frame of its own, placed as it is)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    image_id: int
    letterbox: Letterbox


class DetectionDataset(Dataset):
    """Samples of `records` as `placement` sets them in frames; a number: letterboxed in squares of so many pixels.

    augment: a policy for training, None for evaluation (placed alone; the position is then the image). cache: where
    decoded images are kept: None, "ram", "disk", or "gpu" for a loader that draws them on the device and enlarges none
    before. order: which image stands at which position. frames: where others are wanted than those of each image alone.
    `dataset[epoch, position]` draws every random number from a generator of (seed, epoch, position).
    """

    def __init__(self, records: Sequence[Record], placement: Placement | int, augment: Policy | None = None,
                 seed: int = 0, *, cache: str | None = None, order: EpochOrder | None = None,
                 frames: Frames | None = None) -> None:
        self.records, self.augment, self.seed, self.frames = records, augment, seed, frames
        self.placement = Placement.of(Frame(), placement)
        self.order = EpochOrder(len(records), seed) if order is None and augment else order
        self._table = RecordTable.from_records(records)
        self._scratch = Scratch()
        detail, enlarge = (1.0, 1.0) if augment is None else (augment.detail, augment.enlarge)
        self.store = ImageStore(records, self.placement, None if cache == "gpu" else cache, exact=augment is None,
                                enlarge=1.0 if cache == "gpu" else enlarge, detail=detail)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        sample, = self.draw([key], np.empty((1, *self.frame(key), 3), np.uint8))
        return sample

    def draw(self, keys: Sequence[Key], out: np.ndarray) -> list[Sample]:
        """The samples of a batch, all of one frame; their images are views of `out` (B, H, W, 3) uint8.

        Plans and labels of all samples come first, then pixels: alternating, they would evict each other from the CPU's
        caches, and the numbers would take twice as long.
        """
        keys = [self._complete(key) for key in keys]
        if self.augment is None:
            return [self._plain(position, image) for (_, position, _), image in zip(keys, out, strict=True)]
        frame = out.shape[1:3]
        drawn = [self._draw(*key, frame) for key in keys]
        found = [self._find(plan, frame, lambda index: False) for plan, _ in drawn]
        return [self._augmented(plan, index, labels, image)
                for (plan, index), labels, image in zip(drawn, found, out, strict=True)]

    def frame(self, key: Key) -> tuple[int, int]:
        """(height, width) of a sample."""
        epoch, position, _ = self._complete(key)
        if self.frames is not None:
            return self.frames(epoch, position)
        if not self.placement.frame.fits_images:
            return self.placement.size
        index = position if self.augment is None else self.order.at(epoch, [position])[0]
        return self.placement.batch_frame(self.store.sizes[[index]])

    @property
    def largest_frame(self) -> tuple[int, int]:
        """(height, width) that no sample's frame exceeds."""
        if self.frames is not None:
            return self.frames.largest
        placement = self.placement
        return placement.batch_frame(self.store.sizes) if placement.frame.fits_images else placement.size

    @property
    def damaged(self) -> list[str]:
        """Paths of the images that could not be decoded so far, by any worker; drawn grey, without loss."""
        return self.store.damaged

    def plan(self, key: Key) -> tuple[Plan, Labels, int]:
        """What a training sample will show, without a pixel: its plan, its labels in the frame, its image's id.

        Only images that are known to be damaged by now are treated so.
        """
        frame = self.frame(key)
        plan, index = self._draw(*self._complete(key), frame)
        return plan, self._find(plan, frame, self.store.is_damaged), self.image_id(index)

    def content(self, letterboxes: Sequence[Letterbox]) -> np.ndarray | None:
        """(B, 2) int64 height and width of the images of a batch, where they lie at the top left of their frames."""
        if not self.placement.corner:
            return None
        return np.array([letterbox.content for letterbox in letterboxes], np.int64).reshape(-1, 2)

    def image_id(self, index: int) -> int:
        """The id of image `index`."""
        return int(self._table.image_ids[index])

    def _complete(self, key: Key) -> tuple[int, int, bool]:
        epoch, position, mosaic = (0, key, True) if isinstance(key, int | np.integer) else (*key, True)[:3]
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return epoch, position % len(self), mosaic

    def _draw(self, epoch: int, position: int, mosaic: bool, frame: tuple[int, int]) -> tuple[Plan, int]:
        """The plan of a sample, and the image that it is about."""
        rng = np.random.default_rng([self.seed, epoch, position])
        index = self.order.at(epoch, [position])[0]

        def others(count: int) -> list[int]:
            return self.order.mosaic_indices(rng, epoch, position, count)

        scene = Scene(index, frame, self._size, others, self._labels, mosaic, self.placement.on_canvas,
                      self.placement.size)
        return self.augment.draw(rng, scene), index

    def _find(self, plan: Plan, frame: tuple[int, int], damaged: Callable[[int], bool]) -> Labels:
        return plan_labels(plan, self._labels, self._size, frame, self.augment, damaged)

    def _augmented(self, plan: Plan, index: int, found: Labels, image: np.ndarray) -> Sample:
        """A sample drawn to `image` (H, W, 3); found: its labels as they are if no image is damaged."""
        frame = image.shape[:2]
        _, damaged = render_plan(plan, self.store.load, frame, self.augment, self._scratch, image)
        if not self.store.views_intact():  # another process wrote over an image while it was drawn
            _, damaged = render_plan(plan, self.store.load_own, frame, self.augment, self._scratch, image)
        if damaged:
            found = self._find(plan, frame, damaged.__contains__)
        draw_copied(draw_pasted(image, found.pasted), found.copied)
        return Sample(image, found.boxes, found.labels, found.ignore, self.image_id(index), plan.letterbox(frame))

    def _plain(self, index: int, image: np.ndarray) -> Sample:
        """A sample for evaluation, drawn to `image` (H, W, 3)."""
        record = self.records[index]
        rule = self.placement.frame
        (height, width), transform = self.placement.in_frame((record.height, record.width), image.shape[:2])
        left, top = transform.pad
        loaded = self.store.load_whole(index)
        if loaded is None or (height, width) != image.shape[:2]:
            paint(image, rule.fill)
        if loaded is None:
            found = Labels.unknown(record.height, record.width)
        else:
            # YOLO's averages where the image shrinks: small objects would alias away, and v5/v7 evaluate so.
            cv2.cvtColor(resize(loaded, (height, width), antialias=rule.shrink == "area"), cv2.COLOR_BGR2RGB,
                         dst=image[top:top + height, left:left + width])
            found = self._labels(index)
        boxes = forward_boxes(transform, found.boxes)
        return Sample(image, boxes, found.labels.copy(), found.ignore.copy(), record.image_id, transform)

    def _size(self, index: int) -> tuple[int, int]:
        height, width = self.store.sizes[index].tolist()
        return height, width

    def _labels(self, index: int) -> Labels:
        return Labels(*self._table.targets(index))
