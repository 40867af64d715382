"""From records to training and evaluation samples. A sample depends on (seed, epoch, index) and on nothing else.

Legend: H, W pixels of the input frame, N labels of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import Dataset

from data.augment import AugmentConfig, draw_plan
from data.geometry import Labels
from data.images import ImageStore
from data.letterbox import FILL, forward_boxes, place, plan_rect
from data.records import Record
from data.render import apply_plan
from utils.structures import Letterbox

Key = int | tuple[int, int] | tuple[int, int, bool]  # index, (epoch, index), or (epoch, index, mosaic allowed)


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
    """Samples of `records` in an input frame of `imgsz` pixels.

    augment: an `AugmentConfig` for training, None for evaluation (letterbox only). cache: None or "ram". frames (n, 2):
    the (height, width) of each image's frame where rectangular evaluation wants other frames than the square.
    `dataset[epoch, i]` draws all chance from (seed, epoch, i), so workers, order and resuming change nothing.
    """

    def __init__(self, records: Sequence[Record], imgsz: int, augment: AugmentConfig | None = None, seed: int = 0, *,
                 cache: str | None = None, frames: np.ndarray | None = None) -> None:
        self.records, self.imgsz, self.augment, self.seed, self.frames = records, imgsz, augment, seed, frames
        self.store = ImageStore(records, imgsz, cache)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, mosaic = (0, key, True) if isinstance(key, int | np.integer) else (*key, True)[:3]
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        return self._plain(index) if self.augment is None else self._augmented(epoch, index, mosaic)

    @property
    def damaged(self) -> list[str]:
        """Paths of images that could not be decoded so far, by any worker; each taught nothing."""
        return self.store.damaged

    def _augmented(self, epoch: int, index: int, mosaic: bool) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, index])
        side = self.imgsz
        plan = draw_plan(rng, self.augment, index, lambda k: rng.integers(0, len(self), k).tolist(), self._size, side,
                         mosaic)
        image, found = apply_plan(plan, self.store.load, self._labels, self._size, side, self.augment)
        itself = Letterbox((side, side), (side, side), (1.0, 1.0), (0, 0))
        return Sample(image, found.boxes, found.labels, found.ignore, self.records[index].image_id, itself)

    def _plain(self, index: int) -> Sample:
        record = self.records[index]
        frame = (self.imgsz, self.imgsz) if self.frames is None else tuple(self.frames[index].tolist())
        inner, transform = plan_rect((record.height, record.width), self.imgsz, frame)
        loaded = self.store.load(index)
        if loaded is None:
            image, found = np.full((*frame, 3), FILL, np.uint8), Labels.unknown(record.height, record.width)
        else:
            # Averaging where the image shrinks: small objects would alias away, and v5/v7 evaluate so.
            image = cv2.cvtColor(place(loaded[0], inner, transform, antialias=True), cv2.COLOR_BGR2RGB)
            found = self._labels(index)
        boxes = forward_boxes(transform, found.boxes)
        return Sample(image, boxes, found.labels.copy(), found.ignore.copy(), record.image_id, transform)

    def _size(self, index: int) -> tuple[int, int]:
        record = self.records[index]
        return record.height, record.width

    def _labels(self, index: int) -> Labels:
        record = self.records[index]
        return Labels(record.boxes, record.labels, record.ignore)
