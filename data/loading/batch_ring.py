"""Slots for batches that workers fill and the training reads, used again and again.

They lie in shared memory, so that a batch crosses from a worker without being copied, without a file in /dev/shm (64 MB
in a container, and full with the first batches), and without fresh pages for every batch.
"""

import math
import weakref

import numpy as np
import torch
from torch import Tensor

from data.shared_array import SharedArray

NO_SLOT = -1


class BatchRing:
    """`slots` slots of `size` bytes each. The process that made it hands them out; workers write into them."""

    def __init__(self, slots: int, size: int) -> None:
        self.slots, self.size = slots, size
        self._memory = SharedArray((slots, size))
        self._free = list(range(slots))
        self._read: set[int] = set()

    def acquire(self) -> int:
        """The number of a free slot, `NO_SLOT` where there is none: the batch is then sent in memory of its own."""
        return self._free.pop() if self._free else NO_SLOT

    def reclaim(self) -> None:
        """Take back the slots of batches which nobody will fetch any more."""
        self._free = [slot for slot in range(self.slots) if slot not in self._read]

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """A slot as an array uint8; None for `NO_SLOT` and where `shape` is too large for it."""
        count = math.prod(shape)
        if slot == NO_SLOT or count > self.size:
            return None
        return self._memory.array[slot, :count].reshape(shape)

    def tensor(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """What was written to a slot; the slot is free again once nobody holds the tensor or a view of it."""
        content = self._memory.array[slot, :math.prod(shape)]
        self._read.add(slot)
        weakref.finalize(content, self._release, slot).atexit = False
        return torch.from_numpy(content).view(shape)

    def _release(self, slot: int) -> None:
        self._read.discard(slot)
        self._free.append(slot)
