"""Batches for training and evaluation, the same ones whatever the number of workers.

Legend: B images in a batch, M the most labels of any of them, H, W pixels of the input frame, n images of the dataset.
"""

import atexit
import multiprocessing
import signal
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.loading.batch_ring import NOWHERE, BatchRing
from data.loading.dataset import DetectionDataset, Key, Sample
from utils.errors import UserError, lost_worker
from utils.memory import free_memory, processes_here
from utils.structures import Batch, Letterbox, PackedTargets

PREFETCH = 2  # batches that each worker prepares ahead
SPARE = 3  # places for batches beside those: with the training, with the page-locking thread, being looked at
RING_SHARE = 0.125  # of the free memory
STOPS = (signal.SIGINT, signal.SIGTERM)
SEMAPHORES = 4  # of a queue: locks of both ends and its count, and one of an event


class EpochBatches(Sampler[list[Key]]):
    """Batches of keys (epoch, position, mosaic): the positions of an epoch from first to last, from batch `start` on.

    `batches[k]` is batch k of the whole epoch. Of `world` processes, process `rank` gets every world-th position, so
    that batch k of all of them together is batch k of one process with world times the batch size. The last batch is
    kept; where n is no multiple of `world`, some of its positions are seen twice so that all processes take equally
    many steps.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_size, self.rank, self.world = n, batch_size, rank, world
        self.epoch, self.start, self.mosaic = 0, 0, True

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.n // (self.world * self.batch_size))

    def __iter__(self) -> Iterator[list[Key]]:
        # `start` is left as it is: with workers, DataLoader asks twice for an iterator and reads the second
        return (self[number] for number in range(self.start, len(self)))

    def __getitem__(self, number: int) -> list[Key]:
        """The keys of batch `number`: this process's part of its positions."""
        group = self.world * self.batch_size
        start = number * group
        count = min(group, self.n - start)
        places = range(self.rank, -(-count // self.world) * self.world, self.world)
        return [(self.epoch, start + place % count, self.mosaic) for place in places]


@dataclass
class Packed:
    """A batch on its way from a worker: all but the pixels, which wait in place `slot` of a ring, or come along.

    boxes (B, M, 4), labels, ignore, valid (B, M) as in `PackedTargets`; shape: of the pixels, (B, H, W, 3).
    """

    slot: int
    shape: tuple[int, int, int, int]
    images: Tensor | None
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    valid: np.ndarray
    image_ids: list[int]
    letterboxes: list[Letterbox]

    def unpack(self, ring: BatchRing | None) -> Batch:
        """The batch that a training or an evaluation reads, its images (B, 3, H, W) in channels-last order."""
        images = ring.tensor(self.slot, self.shape) if self.images is None else self.images
        targets = PackedTargets(*map(torch.from_numpy, (self.boxes, self.labels, self.ignore, self.valid)))
        return Batch(images.permute(0, 3, 1, 2), targets, self.image_ids, self.letterboxes)


class BatchMaker(Dataset):
    """`maker[slot, keys]` draws the samples of a batch side by side, in a place of `ring`; what workers do."""

    def __init__(self, dataset: DetectionDataset, ring: BatchRing | None) -> None:
        self.dataset, self.ring = dataset, ring

    def __getitem__(self, request: tuple[int, list[Key]]) -> Packed:
        slot, keys = request
        shape = (len(keys), *self.dataset.frame(keys[0]), 3)
        room = None if self.ring is None else self.ring.array(slot, shape)
        images = torch.empty(shape, dtype=torch.uint8) if room is None else None
        samples = self.dataset.draw(keys, images.numpy() if room is None else room)
        return Packed(slot if images is None else NOWHERE, shape, images, *pack_labels(samples),
                      [s.image_id for s in samples], [s.letterbox for s in samples])


class Requests(Sampler):
    """The keys of each batch with a place for it."""

    def __init__(self, batches: "EpochBatches | list[list[Key]]", ring: BatchRing | None) -> None:
        self.batches, self.ring = batches, ring

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        if self.ring is not None:
            self.ring.reclaim()  # the first keys are asked for when workers have ended the pass before
        for keys in self.batches:
            yield NOWHERE if self.ring is None else self.ring.lend(), keys


class Loader:
    """An iterable of `Batch`es over a dataset, one pass per epoch; workers live as long as it does."""

    def __init__(self, dataset: DetectionDataset, batches: "EpochBatches | list[list[Key]]", workers: int = 0,
                 seed: int = 0, pin_memory: bool = False) -> None:
        self.dataset, self.batches = dataset, batches
        self.pin_memory = pin_memory and torch.cuda.is_available()
        # Forked workers share the records, the order and the images; elsewhere each epoch's workers get a copy of them.
        self._ring = self._make_ring(workers) if can_fork() or not workers else None
        self._maker = BatchMaker(dataset, self._ring)
        self._loader = in_workers(self, self._maker, Requests(batches, self._ring), workers, seed)

    def _make_ring(self, workers: int) -> BatchRing:
        batches = self.batches
        most = batches.batch_size if isinstance(batches, EpochBatches) else max(map(len, batches), default=1)
        height, width = self.dataset.largest_frame
        size = 3 * height * width * most
        room = int(RING_SHARE * min(free_memory() / processes_here(), 2**62)) // size
        return BatchRing(min(workers * PREFETCH + SPARE, room), size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = (packed.unpack(self._ring) for packed in self._packed())
        return page_locked(batches) if self.pin_memory else batches

    def _packed(self) -> Iterator[Packed]:
        try:
            yield from started(self._loader)
        except RuntimeError as error:
            raise lost_worker(error) or error from None

    def batch(self, number: int) -> Batch:
        """Batch `number` of the epoch that was set, once more, drawn by this process."""
        return self._maker[NOWHERE, self.batches[number]].unpack(None)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the shuffle and the augmentations of the next pass, and the batch that it begins with (training)."""
        self.dataset.order.set_epoch(epoch)
        self.batches.epoch, self.batches.start = epoch, start

    def set_weights(self, weights: np.ndarray | None) -> None:
        """How often images are seen relative to each other, (n,) of 0 or more; from the next `set_epoch` on."""
        self.dataset.order.set_weights(weights)

    def close_mosaic(self) -> None:
        """No mosaic, mixup or copy-paste from the next pass on, as for the last epochs of a training."""
        self.batches.mosaic = False

    @property
    def damaged(self) -> list[str]:
        """Paths of images that could not be decoded so far, in any worker."""
        return self.dataset.damaged


def page_locked(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches in memory that a GPU fetches from by itself, copied by a thread while the step before computes."""
    with ThreadPoolExecutor(1) as thread:
        ahead: Future[Batch] | None = None
        for batch in batches:
            following = thread.submit(batch.pin_memory)
            del batch  # its place is free as soon as it is copied
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def pack_labels(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """boxes (B, M, 4), labels, ignore, valid (B, M) of a batch, padded with zeros."""
    counts = np.array([len(s.labels) for s in samples])
    filled = np.arange(counts.max(initial=0)) < counts[:, None]  # (B, M)
    boxes, labels = np.zeros((*filled.shape, 4), np.float32), np.zeros(filled.shape, np.int64)
    ignore = np.zeros(filled.shape, bool)
    boxes[filled] = np.concatenate([s.boxes for s in samples])
    labels[filled] = np.concatenate([s.labels for s in samples])
    ignore[filled] = np.concatenate([s.ignore for s in samples])
    return boxes, labels, ignore, filled & ~ignore


def can_fork() -> bool:
    """Whether this system starts processes as copies of this one, which see its memory."""
    return "fork" in multiprocessing.get_all_start_methods()


def in_workers(owner: object, maker: Dataset, requests: Sampler, workers: int, seed: int,
               pin_memory: bool = False) -> DataLoader:
    """`maker[request]` of each request in turn, a whole batch, made by processes.

    Where they are forked they live as long as `owner`, otherwise for one pass.
    """
    fork = workers > 0 and can_fork()
    loader = DataLoader(
        maker, sampler=requests, batch_size=None, num_workers=workers, worker_init_fn=start_worker,
        persistent_workers=fork, prefetch_factor=PREFETCH if workers else None, pin_memory=pin_memory,
        multiprocessing_context="fork" if fork else None,
        generator=torch.Generator().manual_seed(seed))  # its own, so that iterating leaves the global one alone
    _end_workers_with(owner, loader)
    return loader


def started(loader: DataLoader) -> Iterator:
    """`iter(loader)`, with signals held back meanwhile: none may reach a worker before it has learned to ignore them.
    What comes for this process is delivered afterwards. Raises `UserError` where the system has no room for workers."""
    if loader.num_workers and getattr(loader, "_iterator", None) is None:
        _check_semaphores(loader.num_workers)
    if not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_semaphores(workers: int) -> None:
    """Whether the queues of so many workers can be made: DataLoader that fails midway leaves workers behind, which
    nobody ends. Each semaphore is a page of /dev/shm."""
    try:
        for_each = [multiprocessing.Lock() for _ in range(SEMAPHORES * (workers + 2))]
    except OSError as error:
        raise UserError(f"--workers {workers}: the system has no room for the queues of so many processes "
                        f"({error.strerror or error}), in a container because of a small /dev/shm; use --workers 0, or "
                        "start the container with --shm-size 1g") from None
    del for_each  # they go with it


def _end_workers_with(owner: object, loader: DataLoader) -> None:
    """At Python's exit, end a loader's workers where its owner still lives.

    Python would send them a SIGTERM, which they ignore, and wait for ever; PyTorch ends workers only before the exit.
    """
    end = partial(_end_workers, weakref.ref(loader))
    atexit.register(end)  # the last that is registered runs first: before theirs
    weakref.finalize(owner, atexit.unregister, end)


def _end_workers(loader: "weakref.ref[DataLoader]") -> None:
    iterator = getattr(loader(), "_iterator", None)
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()  # one that waits for something that a killed one held would wait for ever


def start_worker(_: int) -> None:
    """One thread per worker: more would fight over the cores. To stop is for the main process to decide."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # `started` held them back
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
