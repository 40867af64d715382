"""Which samples make a batch, and a batch on its way from a worker to the training.

Legend: B images in a batch, M the most labels of any of them, H, W pixels of the input frame, n images of the dataset.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.loading.batch_ring import NO_SLOT, BatchRing
from data.loading.dataset import DetectionDataset, Key, Sample
from utils.structures import Batch, Letterbox, PackedTargets


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
        positions = range(self.rank, -(-count // self.world) * self.world, self.world)
        return [(self.epoch, start + k % count, self.mosaic) for k in positions]


Batches = EpochBatches | list[list[Key]]


@dataclass
class PackedBatch:
    """A batch on its way from a worker: all but the pixels, which lie in slot `slot` of a ring, or come along.

    boxes (B, M, 4), labels, ignore, valid (B, M), content (B, 2) as in `PackedTargets`; shape: of the pixels, (B, H, W,
    3).
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
    content: np.ndarray | None = None

    def unpack(self, ring: BatchRing) -> Batch:
        """The batch that a training or an evaluation reads, its images (B, 3, H, W) in channels-last order."""
        images = ring.tensor(self.slot, self.shape) if self.images is None else self.images
        content = None if self.content is None else torch.from_numpy(self.content)
        targets = PackedTargets(*map(torch.from_numpy, (self.boxes, self.labels, self.ignore, self.valid)), content)
        return Batch(images.permute(0, 3, 1, 2), targets, self.image_ids, self.letterboxes)


class BatchMaker(Dataset):
    """`maker[slot, keys]` draws the samples of a batch side by side, in a slot of `ring`; what workers do."""

    def __init__(self, dataset: DetectionDataset, ring: BatchRing) -> None:
        self.dataset, self.ring = dataset, ring

    def __getitem__(self, request: tuple[int, list[Key]]) -> PackedBatch:
        slot, keys = request
        shape = (len(keys), *self.dataset.frame(keys[0]), 3)
        out = self.ring.array(slot, shape)
        images = torch.empty(shape, dtype=torch.uint8) if out is None else None
        samples = self.dataset.draw(keys, images.numpy() if out is None else out)
        return PackedBatch(slot if images is None else NO_SLOT, shape, images, *pack_labels(samples),
                           [s.image_id for s in samples], [s.letterbox for s in samples],
                           self.dataset.content([s.letterbox for s in samples]))


class Requests(Sampler):
    """The keys of each batch with a slot for its pixels."""

    def __init__(self, batches: Batches, ring: BatchRing) -> None:
        self.batches, self.ring = batches, ring

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, list[Key]]]:
        self.ring.reclaim()  # the first keys are asked for when workers have ended the pass before
        for keys in self.batches:
            yield self.ring.acquire(), keys


def pack_labels(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """boxes (B, M, 4), labels, ignore, valid (B, M) of a batch, padded with zeros."""
    counts = np.array([len(s.labels) for s in samples])
    filled = np.arange(counts.max(initial=0)) < counts[:, None]  # (B, M)
    boxes, labels = np.zeros((*filled.shape, 4), np.float32), np.zeros(filled.shape, np.int64)
    ignore = np.zeros(filled.shape, bool)
    boxes[filled] = np.concatenate([s.boxes for s in samples])
    labels[filled] = np.concatenate([s.labels for s in samples])
    ignore[filled] = np.concatenate([s.ignore for s in samples])
    return boxes, labels, ignore, filled & ~ignore
