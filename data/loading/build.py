"""The loader of a training or of an evaluation, put together from its parts."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data.augment.policies.policy import Policy
from data.images.decoded_pool import pool_for
from data.images.placement import Placement
from data.images.store import image_sizes
from data.labels.records import Record, RecordTable
from data.loading.batches import EpochBatches
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset
from data.loading.device_loader import DeviceLoader
from data.loading.epoch_order import AspectOrder, EpochOrder
from data.loading.loader import Loader
from utils.errors import UserError

EVAL_PAD = 0.5  # strides that rectangular evaluation leaves beside the images, as in YOLOv5 and v7
EVAL_GROUP = 32  # images, in order of aspect, that share a frame there: the batch by which YOLOv5 and v7 evaluate


class HasRecords(Protocol):
    """What a loader needs of an index: its records, and where they came from to name in an error."""

    records: Sequence[Record]


def train_loader(index: HasRecords, imgsz: int | tuple[int, int], augment: Policy, config: LoaderConfig,
                 weights: np.ndarray | None = None) -> Loader:
    """Shuffled, augmented batches in frames of the size imgsz, as `Frame.resolve` of `config.frame` reads it.

    With `config.rect`, and where frames fit their images: batches of like aspect, in the smallest frames of multiples
    of the stride that hold them, without mosaic (nor is there one in a fixed frame that is not square). weights (n,):
    how often each image is seen.
    """
    records, placement = _records(index), Placement.of(config.frame, imgsz)
    if augment.draws_sizes and not config.frame.fits_images:
        raise UserError("the recipe's augmentation policy draws the size of each image, but frames of this model have "
                        "one size: take a recipe with policy: yolo or ssd", "flag-conflict")
    order, frames = EpochOrder(len(records), config.seed, weights), None
    if config.rect or config.frame.fits_images:
        sizes = image_sizes(records)
        order = AspectOrder(sizes, config.batch_size * config.world, config.seed, weights)
        frames = TrainFrames(order, sizes, placement, augment, config.seed)
    if config.rect or (augment.shows_others and not has_mosaic(config)):
        augment = augment.in_rectangles()
    batches = EpochBatches(len(records), config.batch_size, config.rank, config.world)
    dataset = DetectionDataset(records, placement, augment, config.seed, cache=config.cache, order=order, frames=frames)
    if config.cache == "gpu":
        return DeviceLoader(dataset, batches, config)
    if not config.cache:
        dataset.store.pool = pool_for(dataset.store.canonical, config, mosaic=augment.shows_others)
    return Loader(dataset, batches, config)


def eval_loader(index: HasRecords, imgsz: int | tuple[int, int], config: LoaderConfig,
                done: Container[int] = ()) -> Loader:
    """Batches without augmentation, each image once: in the index's order, or sorted by aspect where `config.rect`, and
    where frames fit their images.

    imgsz: as `Frame.resolve` of `config.frame` reads it; a frame is rounded up to multiples of the stride. rect: by
    YOLO's rule `EVAL_GROUP` images get the smallest frame that holds them at longest side imgsz; batches are cut where
    the frame changes, so that no image's frame depends on the batch size. Of `world` processes each takes every
    world-th batch. Seed, device and cache "gpu" are for training alone. done: ids of images that need not be evaluated
    any more; batches of such images alone are left out, all others stay as they are.
    """
    records, placement = _records(index), Placement.of(config.frame, imgsz)
    height, width = placement.size
    if config.rect and height != width:
        raise UserError(f"--rect chooses the frames itself: give one image size instead of {height} {width}",
                        "flag-conflict")
    sizes, size = image_sizes(records), config.batch_size
    by_aspect = config.rect or config.frame.fits_images
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable") if by_aspect else np.arange(len(records))
    frames = np.empty((len(records), 2), np.int64)
    if config.rect:
        for group in _runs(order, EVAL_GROUP):
            frames[group] = placement.rect_frame(sizes[group], EVAL_PAD)
        changes = np.flatnonzero((frames[order[1:]] != frames[order[:-1]]).any(1)) + 1
        chunks = [chunk for part in np.split(order, changes) for chunk in _runs(part, size)]
    else:
        chunks = _runs(order, size)
        for chunk in chunks:
            frames[chunk] = placement.batch_frame(sizes[chunk])
    dataset = DetectionDataset(records, placement, frames=EvalFrames(frames), cache=config.cache)
    if done:
        ids = RecordTable.from_records(records).image_ids
        chunks = [chunk for chunk in chunks if not all(i in done for i in ids[chunk].tolist())]
    batches = [[(0, i, False) for i in chunk.tolist()] for chunk in chunks]
    return Loader(dataset, batches[config.rank::config.world], config)


@dataclass(frozen=True)
class TrainFrames:
    """The (height, width) of the frame at (epoch, position): the smallest that holds all images of its batch."""

    order: AspectOrder
    sizes: np.ndarray
    placement: Placement
    augment: Policy
    seed: int

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        mates, placement = self.order.batch_group(epoch, position), self.placement
        sizes = self.sizes[mates]
        if self.augment.draws_sizes:
            first = position // self.order.group * self.order.group
            drawn = [self.augment.draw_size(np.random.default_rng([self.seed, epoch, first + k]), tuple(size),
                                            placement.size) for k, size in enumerate(sizes.tolist())]
            return placement.frame.up(tuple(np.max(drawn, 0).tolist()))
        return placement.batch_frame(sizes) if placement.frame.fits_images else placement.rect_frame(sizes, 0.0)

    @property
    def largest(self) -> tuple[int, int]:
        """The frame of a batch with tall and wide images in it."""
        if self.augment.draws_sizes:
            return self.placement.frame.up((self.placement.side,) * 2)
        return self.placement.batch_frame(self.sizes)


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


def has_mosaic(config: LoaderConfig) -> bool:
    """Whether frames are square, as the canvas of a mosaic is."""
    size = config.frame.size
    return not (config.rect or config.frame.fits_images) and (size is None or size[0] == size[1])


def _runs(order: np.ndarray, size: int) -> list[np.ndarray]:
    """(n,) in parts of `size`, the last one smaller."""
    return [order[k:k + size] for k in range(0, len(order), size)]


def _records(index: HasRecords) -> Sequence[Record]:
    if len(index.records) == 0:
        source = getattr(index, "source", "the dataset")
        raise UserError(f"{source}: no images in this split; check the paths in its YAML", "no-images")
    return index.records
