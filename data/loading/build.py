"""The loader of a training or of an evaluation, put together from its parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from data.augment.plan import AugmentConfig
from data.images.decoded_pool import pool_for
from data.images.store import image_sizes
from data.labels.records import Record
from data.loading.dataset import DetectionDataset
from data.loading.device_loader import DeviceLoader
from data.loading.epoch_order import AspectOrder, EpochOrder
from data.loading.loader import EpochBatches, Loader
from utils.errors import UserError


class HasRecords(Protocol):
    """What a loader needs of an index: its records, and where they came from to name in an error."""

    records: Sequence[Record]


def train_loader(index: HasRecords, imgsz: int, batch_size: int, augment: AugmentConfig, *, workers: int = 0,
                 seed: int = 0, rank: int = 0, world: int = 1, cache: str | None = None, pin_memory: bool = False,
                 device: torch.device | str | None = None, weights: np.ndarray | None = None, rect: bool = False,
                 stride: int = 32) -> "Loader":
    """Shuffled, augmented batches of `batch_size` images (per process) in frames of imgsz x imgsz.

    cache: None, "ram" or "disk"; "gpu" holds all images on `device` and draws there. pin_memory: page-locked batches,
    which a GPU fetches while it computes. weights (n,): how often each image is seen. rect: batches of like aspect, in
    the smallest frames of multiples of `stride` that hold them, without mosaic.
    """
    records = _records(index)
    group, frame_of = batch_size * world, None
    order: EpochOrder = EpochOrder(len(records), seed, weights)
    if rect:
        sizes = image_sizes(records)
        order = AspectOrder(sizes, group, seed, weights)
        frame_of = RectFrames(order, sizes, imgsz, stride)
        augment = replace(augment, mosaic=0.0)
    batches = EpochBatches(len(records), batch_size, rank, world)
    if cache == "gpu":
        dataset = DetectionDataset(records, imgsz, augment, seed, order=order, frame_of=frame_of, enlarge=1.0)
        return DeviceLoader(dataset, batches, device, workers=workers, seed=seed)
    dataset = DetectionDataset(records, imgsz, augment, seed, cache=cache, order=order, frame_of=frame_of)
    if not cache:
        dataset.store.pool = pool_for(dataset.store.held, world, partners=augment.mosaic > 0)
    return Loader(dataset, batches, workers, seed, pin_memory)


def eval_loader(index: HasRecords, imgsz: int | tuple[int, int], batch_size: int, *, workers: int = 0,
                rect: bool = False, pad: float = 0.5, stride: int = 32, rank: int = 0, world: int = 1,
                cache: str | None = None, pin_memory: bool = False) -> Loader:
    """Letterboxed batches, each image once: in the index's order, or sorted by aspect where `rect`.

    imgsz: the side of square frames, or (height, width), rounded up to multiples of `stride`. rect: each batch gets the
    smallest frame that holds its images at longest side imgsz, by YOLO's rule with `pad`, in units of `stride`. Of
    `world` processes each takes every world-th batch. pin_memory: as in `train_loader`.
    """
    records = _records(index)
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if rect and height != width:
        raise UserError(f"--rect chooses the frames itself: give one image size instead of {height} {width}")
    side = max(height, width)
    sizes = image_sizes(records)
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable") if rect else np.arange(len(records))
    chunks = [order[k:k + batch_size] for k in range(0, len(order), batch_size)]
    frames = np.tile([-(-height // stride) * stride, -(-width // stride) * stride], (len(records), 1))
    if rect:
        for chunk in chunks:
            frames[chunk] = rect_frame(sizes[chunk], side, stride, pad)
    dataset = DetectionDataset(records, side, frames=frames, cache=cache)
    batches = [[(0, i, False) for i in chunk.tolist()] for chunk in chunks]
    return Loader(dataset, batches[rank::world], workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class RectFrames:
    """The (height, width) of the frame at (epoch, position): the smallest that holds all images of its group."""

    order: AspectOrder
    sizes: np.ndarray
    imgsz: int
    stride: int

    def __call__(self, epoch: int, position: int) -> tuple[int, int]:
        return rect_frame(self.sizes[self.order.mates(epoch, position)], self.imgsz, self.stride, 0.0)

    @property
    def largest(self) -> tuple[int, int]:
        """The frame of a batch with tall and wide images in it."""
        side = -(-self.imgsz // self.stride) * self.stride
        return side, side


def rect_frame(sizes: np.ndarray, imgsz: int, stride: int, pad: float) -> tuple[int, int]:
    """(height, width) of the frame for images of `sizes` (B, 2): ceil(side / stride + pad) * stride, as in YOLO."""
    aspects = sizes[:, 0] / sizes[:, 1]
    shape = np.array((min(aspects.max(), 1.0), min(1 / aspects.min(), 1.0)))
    height, width = (np.ceil(shape * imgsz / stride + pad).astype(int) * stride).tolist()
    return height, width


def _records(index: HasRecords) -> Sequence[Record]:
    if len(index.records) == 0:
        source = getattr(index, "source", "the dataset")
        raise UserError(f"{source}: no images in this split; check the paths in its YAML")
    return index.records
