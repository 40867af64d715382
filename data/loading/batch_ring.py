"""Places for batches that workers fill and the training reads, used again and again.

They lie in anonymous shared memory, so that a batch crosses from a worker without being copied, without a file in
/dev/shm (64 MB in a container, and full with the first batches), and without fresh pages for every batch.
"""

import math
import mmap
import weakref

import numpy as np
import torch
from torch import Tensor

NOWHERE = -1


class BatchRing:
    """`slots` places of `size` bytes each. The process that made it lends them; forked workers write into them."""

    def __init__(self, slots: int, size: int) -> None:
        self.slots, self.size = slots, size
        self._memory = mmap.mmap(-1, max(slots * size, 1))
        self._free = list(range(slots))
        self._read: set[int] = set()

    def lend(self) -> int:
        """The number of a free place, `NOWHERE` where there is none: the batch is then sent in memory of its own."""
        return self._free.pop() if self._free else NOWHERE

    def reclaim(self) -> None:
        """Take back the places that were lent for batches which nobody will fetch any more."""
        self._free = [slot for slot in range(self.slots) if slot not in self._read]

    def array(self, slot: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """A place as an array uint8; None for `NOWHERE` and where `shape` is too large for it."""
        count = math.prod(shape)
        if slot == NOWHERE or count > self.size:
            return None
        return np.frombuffer(self._memory, np.uint8, count, slot * self.size).reshape(shape)

    def tensor(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """What was written to a place; the place is free again once nobody holds the tensor or a view of it."""
        content = np.frombuffer(self._memory, np.uint8, math.prod(shape), slot * self.size)
        self._read.add(slot)
        weakref.finalize(content, self._give_back, slot).atexit = False
        return torch.from_numpy(content).view(shape)

    def _give_back(self, slot: int) -> None:
        self._read.discard(slot)
        self._free.append(slot)
