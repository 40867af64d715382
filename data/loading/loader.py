"""Batches for training and evaluation, the same ones whatever the number of workers."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from data.loading.batch_ring import NO_SLOT, BatchRing
from data.loading.batches import Batches, BatchMaker, EpochBatches, PackedBatch, Requests
from data.loading.config import LoaderConfig
from data.loading.dataset import DetectionDataset
from data.loading.workers import PREFETCH, data_loader, start_pass
from utils.errors import lost_worker
from utils.memory import free_memory, processes_here
from utils.structures import Batch

SPARE = 3  # slots beside those of batches made ahead: with the training, with the page-locking thread, being looked at
RING_SHARE = 0.125  # of the free memory


class Loader:
    """An iterable of `Batch`es over a dataset, one pass per epoch; workers live as long as it does."""

    def __init__(self, dataset: DetectionDataset, batches: Batches, config: LoaderConfig) -> None:
        self.dataset, self.batches = dataset, batches
        self.pin_memory = config.pin_memory and torch.cuda.is_available()
        self._ring = self._make_ring(config.workers)
        self._maker = BatchMaker(dataset, self._ring)
        self._loader = data_loader(self, self._maker, Requests(batches, self._ring), config)

    def _make_ring(self, workers: int) -> BatchRing:
        batches = self.batches
        most = batches.batch_size if isinstance(batches, EpochBatches) else max(map(len, batches), default=1)
        height, width = self.dataset.largest_frame
        size = 3 * height * width * most
        slots = int(RING_SHARE * min(free_memory() / processes_here(), 2**62)) // size
        return BatchRing(min(workers * PREFETCH + SPARE, slots), size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = (packed.unpack(self._ring) for packed in self._packed())
        return page_locked(batches) if self.pin_memory else batches

    def _packed(self) -> Iterator[PackedBatch]:
        try:
            yield from start_pass(self._loader)
        except RuntimeError as error:
            raise lost_worker(error) or error from None

    def batch(self, number: int) -> Batch:
        """Batch `number` of the epoch that was set, once more, drawn by this process."""
        return self._maker[NO_SLOT, self.batches[number]].unpack(self._ring)

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
            del batch  # its slot is free as soon as it is copied
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
