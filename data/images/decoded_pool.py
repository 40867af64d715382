"""Images that were decoded lately, shared by all workers, so that a mosaic costs about one decode instead of four.

One ring buffer in shared memory. An image's offset counts all bytes ever written: the image is intact as long as less
than one capacity has been reserved after it. That comparison, made before and after use, is the only protection of
readers; the lock guards a few integers and is never held while pixels are copied.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Lock

import numpy as np

from data.loading.config import LoaderConfig
from data.loading.epoch_order import STRIDE, WINDOW
from data.shared_array import SharedArray
from utils.memory import free_memory, processes_here

ABSENT = -1
LEAST = 16  # images that a pool must have room for
PATIENCE = 1.0  # seconds for a lock that is held for microseconds: a process died holding it
WINDOW_SHARE, WHOLE_SHARE = 0.25, 0.125  # of the free memory, for images that mosaics ask for, for a whole dataset
SPARE = 1.25  # images are also taken in that a window does not need: those at the start of an epoch, other workers'


class DecodedPool:
    """A cache of `capacity` bytes for some of `count` images, first in, first out, shared with workers.

    lock: of the start method of those workers (`LoaderConfig.lock`); without one, of the default start method.
    """

    def __init__(self, count: int, capacity: int, lock: Lock | None = None) -> None:
        self.count, self.capacity = count, capacity
        self._pixels = SharedArray(capacity)
        self._offsets = SharedArray(count, np.int64)  # of each image
        self._offsets.array[:] = ABSENT
        self._head = SharedArray(1, np.int64)  # bytes reserved so far
        self._lock = lock or multiprocessing.Lock()
        self._lent: list[int] = []
        self._dead = False

    def get(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        """A view of image `index` of `size` (height, width), None where it is not held; then ask `views_intact`."""
        offset = int(self._offsets.array[index])
        # An eighth of the ring is about to be overwritten: not worth the race.
        if offset == ABSENT or self._head.array[0] - offset > self.capacity - self.capacity // 8:
            return None
        self._lent.append(offset)
        start = offset % self.capacity
        return self._pixels.array[start:start + 3 * size[0] * size[1]].reshape(*size, 3)

    def clear(self) -> None:
        """Forget all images."""
        self._offsets.array[:] = ABSENT

    def views_intact(self) -> bool:
        """Whether no view that this process got since it last asked was overwritten."""
        oldest = min(self._lent, default=ABSENT)
        self._lent.clear()
        return oldest == ABSENT or self._head.array[0] - oldest <= self.capacity

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep a copy of an image (h, w, 3), unless it takes much of the ring or another process has put it by now."""
        need, offsets, head = image.nbytes, self._offsets.array, self._head.array
        if need > self.capacity // 8 or self._dead:
            return
        with self._locked() as held:
            known = int(offsets[index])
            if not held or (known != ABSENT and head[0] - known <= self.capacity - self.capacity // 8):
                return
            offset = int(head[0])
            if offset % self.capacity + need > self.capacity:  # the ring's end: an image lies in one piece
                offset += self.capacity - offset % self.capacity
            head[0] = offset + need  # reserved: from here on nobody trusts what lay there
        start = offset % self.capacity
        self._pixels.array[start:start + need] = image.reshape(-1)
        with self._locked() as held:
            if held and head[0] - offset <= self.capacity:
                offsets[index] = offset

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        held = self._lock.acquire(timeout=PATIENCE)
        self._dead = not held  # a process died with it: from now on this one decodes for itself
        try:
            yield held
        finally:
            if held:
                self._lock.release()


def pool_for(sizes: np.ndarray, config: LoaderConfig, mosaic: bool = True) -> DecodedPool | None:
    """A pool for images of `sizes` (n, 2), or None where one would be of no use or the memory is too short.

    The whole dataset where it is small beside the free memory, otherwise as many images as mosaics choose from. A miss
    costs a decode and changes nothing, so the size may differ from machine to machine. mosaic: whether samples show
    other images than their own.
    """
    total = int(3 * sizes.prod(1).sum())
    free = free_memory() / processes_here()
    window = STRIDE * WINDOW // (config.world if STRIDE % config.world == 0 else 1)
    need = min(total, int(SPARE * window * total / max(len(sizes), 1))) if mosaic else 0
    if total * SPARE <= WHOLE_SHARE * free:
        need = total
    largest = int(3 * sizes.prod(1).max(initial=0))
    capacity = int(min(max(need * 8 / 7 + 2 * largest, LEAST * largest), WINDOW_SHARE * free))
    return DecodedPool(len(sizes), capacity, config.lock()) if need and capacity >= LEAST * largest else None
