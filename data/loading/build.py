"""The loader of a training or of an evaluation, put together from its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data.augment.policies.policy import Policy
from data.images.decoded_pool import pool_for
from data.images.store import image_sizes
from data.labels.records import Record
from data.loading.batches import EpochBatches
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset
from data.loading.device_loader import DeviceLoader
from data.loading.epoch_order import AspectOrder, EpochOrder
from data.loading.loader import Loader
from utils.errors import UserError

EVAL_PAD = 0.5  # strides that rectangular evaluation leaves beside the images, as in YOLOv5 and v7


class HasRecords(Protocol):
    """What a loader needs of an index: its records, and where they came from to name in an error."""

    records: Sequence[Record]


def train_loader(index: HasRecords, imgsz: int, augment: Policy, config: LoaderConfig,
                 weights: np.ndarray | None = None) -> Loader:
    """Shuffled, augmented batches in frames of imgsz x imgsz.

    With `config.rect`: batches of like aspect, in the smallest frames of multiples of the stride that hold them,
    without mosaic. weights (n,): how often each image is seen.
    """
    records = _records(index)
    order, frames = EpochOrder(len(records), config.seed, weights), None
    if config.rect:
        sizes = image_sizes(records)
        order = AspectOrder(sizes, config.batch_size * config.world, config.seed, weights)
        frames = TrainFrames(order, sizes, imgsz, config.stride)
        augment = augment.in_rectangles()
    batches = EpochBatches(len(records), config.batch_size, config.rank, config.world)
    dataset = DetectionDataset(records, imgsz, augment, config.seed, cache=config.cache, order=order, frames=frames)
    if config.cache == "gpu":
        return DeviceLoader(dataset, batches, config)
    if not config.cache:
        dataset.store.pool = pool_for(dataset.store.canonical, config, mosaic=augment.shows_others)
    return Loader(dataset, batches, config)


def eval_loader(index: HasRecords, imgsz: int | tuple[int, int], config: LoaderConfig) -> Loader:
    """Letterboxed batches, each image once: in the index's order, or sorted by aspect where `config.rect`.

    imgsz: the side of square frames, or (height, width), rounded up to multiples of the stride. rect: each batch gets
    the smallest frame that holds its images at longest side imgsz, by YOLO's rule. Of `world` processes each takes
    every world-th batch. Seed, device and cache "gpu" are for training alone.
    """
    records = _records(index)
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if config.rect and height != width:
        raise UserError(f"--rect chooses the frames itself: give one image size instead of {height} {width}",
                        "flag-conflict")
    side, stride, size = max(height, width), config.stride, config.batch_size
    sizes = image_sizes(records)
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable") if config.rect else np.arange(len(records))
    chunks = [order[k:k + size] for k in range(0, len(order), size)]
    frames = np.tile([-(-height // stride) * stride, -(-width // stride) * stride], (len(records), 1))
    if config.rect:
        for chunk in chunks:
            frames[chunk] = rect_frame(sizes[chunk], side, stride, EVAL_PAD)
    dataset = DetectionDataset(records, side, frames=EvalFrames(frames), cache=config.cache)
    batches = [[(0, i, False) for i in chunk.tolist()] for chunk in chunks]
    return Loader(dataset, batches[config.rank::config.world], config)


@dataclass(frozen=True)
class TrainFrames:
    """The (height, width) of the frame at (epoch, position): the smallest that holds all images of its batch."""

    order: AspectOrder
    sizes: np.ndarray
    imgsz: int
    stride: int

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        return rect_frame(self.sizes[self.order.batch_group(epoch, position)], self.imgsz, self.stride, 0.0)

    @property
    def largest(self) -> tuple[int, int]:
        """The frame of a batch with tall and wide images in it."""
        side = -(-self.imgsz // self.stride) * self.stride
        return side, side


@dataclass(frozen=True)
class EvalFrames:
    """The (height, width) of each image's frame; sizes (n, 2)."""

    sizes: np.ndarray

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        return tuple(self.sizes[position].tolist())

    @property
    def largest(self) -> tuple[int, int]:
        """(height, width) that no frame exceeds."""
        return tuple(self.sizes.max(0).tolist())


def rect_frame(sizes: np.ndarray, imgsz: int, stride: int, pad: float) -> tuple[int, int]:
    """(height, width) of the frame for images of `sizes` (B, 2): ceil(side / stride + pad) * stride, as in YOLO."""
    aspects = sizes[:, 0] / sizes[:, 1]
    shape = np.array((min(aspects.max(), 1.0), min(1 / aspects.min(), 1.0)))
    height, width = (np.ceil(shape * imgsz / stride + pad).astype(int) * stride).tolist()
    return height, width


def _records(index: HasRecords) -> Sequence[Record]:
    if len(index.records) == 0:
        source = getattr(index, "source", "the dataset")
        raise UserError(f"{source}: no images in this split; check the paths in its YAML", "no-images")
    return index.records
