"""Batches for training and evaluation, the same ones whatever the number of workers.

Legend: B images in a batch, H, W pixels of the input frame, n images of the dataset.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.augment import AugmentConfig
from data.dataset import DetectionDataset, Key, Sample
from data.records import Record
from utils.errors import UserError
from utils.structures import Batch, Targets, pack_targets


class HasRecords(Protocol):
    """What a loader needs of an index: its records, and where they came from to name in an error."""

    records: Sequence[Record]


class ShuffledBatches(Sampler[list[Key]]):
    """Batches of keys (epoch, index, mosaic) in an order that only (seed, epoch) decides.

    Of `world` processes, process `rank` gets every world-th image, so that batch k of all of them together is batch k
    of one process with world times the batch size. The last batch is kept; where n is no multiple of `world`, the
    first images are seen twice so that all processes take equally many steps.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.epoch, self.mosaic = 0, True

    def __len__(self) -> int:
        return -(-self._share() // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        # The third number sets this stream apart from those of the samples: n is the index of no image.
        order = np.random.default_rng([self.seed, self.epoch, self.n]).permutation(self.n)
        order = np.resize(order, self._share() * self.world)[self.rank::self.world].tolist()
        keys = [(self.epoch, i, self.mosaic) for i in order]
        return iter([keys[k:k + self.batch_size] for k in range(0, len(keys), self.batch_size)])

    def _share(self) -> int:
        return -(-self.n // self.world)


class Loader:
    """An iterable of `Batch`es over a dataset, one pass per epoch; workers live as long as it does."""

    def __init__(self, dataset: DetectionDataset, batches: "ShuffledBatches | list[list[Key]]", workers: int = 0,
                 seed: int = 0, pin_memory: bool = False) -> None:
        self.dataset, self.batches = dataset, batches
        # Forked workers share the records and the RAM cache; elsewhere each gets its own copy.
        fork = workers > 0 and "fork" in multiprocessing.get_all_start_methods()
        self._loader = DataLoader(
            dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, worker_init_fn=start_worker,
            persistent_workers=workers > 0, pin_memory=pin_memory,
            multiprocessing_context="fork" if fork else None,
            generator=torch.Generator().manual_seed(seed))  # its own, so that iterating leaves the global one alone

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle and the augmentations of the next pass (training only)."""
        self.batches.epoch = epoch

    def close_mosaic(self) -> None:
        """No mosaic and no mixup from the next pass on, as for the last epochs of a training."""
        self.batches.mosaic = False

    @property
    def damaged(self) -> list[str]:
        """Paths of images that could not be decoded so far, in any worker."""
        return self.dataset.damaged


def train_loader(index: HasRecords, imgsz: int, batch_size: int, augment: AugmentConfig, *, workers: int = 0,
                 seed: int = 0, rank: int = 0, world: int = 1, cache: str | None = None,
                 pin_memory: bool = False) -> Loader:
    """Shuffled, augmented batches of `batch_size` images (per process) in frames of imgsz x imgsz.

    pin_memory: page-locked batches, which a GPU fetches while it computes.
    """
    dataset = DetectionDataset(_records(index), imgsz, augment, seed, cache=cache)
    return Loader(dataset, ShuffledBatches(len(dataset), batch_size, seed, rank, world), workers, seed, pin_memory)


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
    sizes = np.array([(r.height, r.width) for r in records])
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable") if rect else np.arange(len(records))
    chunks = [order[k:k + batch_size] for k in range(0, len(order), batch_size)]
    frames = np.tile([-(-height // stride) * stride, -(-width // stride) * stride], (len(records), 1))
    if rect:
        for chunk in chunks:
            frames[chunk] = rect_frame(sizes[chunk], side, stride, pad)
    dataset = DetectionDataset(records, side, frames=frames, cache=cache)
    batches = [[(0, i, False) for i in chunk.tolist()] for chunk in chunks]
    return Loader(dataset, batches[rank::world], workers, pin_memory=pin_memory)


def rect_frame(sizes: np.ndarray, imgsz: int, stride: int, pad: float) -> tuple[int, int]:
    """(height, width) of the frame for images of `sizes` (B, 2): ceil(side / stride + pad) * stride, as in YOLO."""
    aspects = sizes[:, 0] / sizes[:, 1]
    shape = np.array((min(aspects.max(), 1.0), min(1 / aspects.min(), 1.0)))
    height, width = (np.ceil(shape * imgsz / stride + pad).astype(int) * stride).tolist()
    return height, width


def collate(samples: list[Sample]) -> Batch:
    """Samples of one frame size -> a batch, images (B, 3, H, W) uint8 RGB."""
    height, width = samples[0].image.shape[:2]
    images = torch.empty((len(samples), 3, height, width), dtype=torch.uint8)
    for planes, sample in zip(images.numpy(), samples, strict=True):
        cv2.split(sample.image, list(planes))  # writes the planes in place, ten times as fast as a transpose
    targets = [Targets(*map(torch.from_numpy, (s.boxes, s.labels, s.ignore))) for s in samples]
    return Batch(images, pack_targets(targets), [s.image_id for s in samples], [s.letterbox for s in samples])


def start_worker(_: int) -> None:
    """One thread per worker: more would fight over the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _records(index: HasRecords) -> Sequence[Record]:
    if len(index.records) == 0:
        source = getattr(index, "source", "the dataset")
        raise UserError(f"{source}: no images in this split; check the paths in its YAML")
    return index.records
