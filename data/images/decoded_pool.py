"""Images that were decoded lately, shared by all workers, so that a mosaic costs about one decode instead of four.

One ring of bytes in anonymous shared memory (not /dev/shm, which containers keep small). An image's place is its
position on an endless tape that the ring rolls over: it is whole as long as the tape has not been promised to writers
further than one ring's length past it. That one comparison, made before and after use, is all the safety there is to
it; the lock guards a few integers and is never held while pixels move.
"""

import mmap
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from data.loading.epoch_order import REACH, STEP
from utils.memory import free_memory, processes_here

ABSENT = -1
LEAST = 16  # images that a pool must have room for
PATIENCE = 1.0  # seconds for a lock that is held for microseconds: a process died holding it
WINDOW_SHARE, WHOLE_SHARE = 0.25, 0.125  # of the free memory, for partners within reach, and for a whole dataset
SPARE = 1.25  # images are also taken in that a window does not need: those at the start of an epoch, other workers'


class DecodedPool:
    """Room for `capacity` bytes of `count` images, first in, first out.

    Forked processes share it. A copy, as spawned processes get, is a pool of its own.
    """

    def __init__(self, count: int, capacity: int) -> None:
        self.count, self.capacity = count, capacity
        self._memory = mmap.mmap(-1, max(capacity, 1))
        self._pixels = np.frombuffer(self._memory, np.uint8)
        self._where = np.frombuffer(mmap.mmap(-1, 8 * max(count, 1)), np.int64)  # places on the tape
        self._where[:] = ABSENT
        self._head = np.frombuffer(mmap.mmap(-1, 8), np.int64)  # of the tape: all before it is promised
        methods = multiprocessing.get_all_start_methods()
        self._lock = multiprocessing.get_context("fork" if "fork" in methods else None).Lock()
        self._lent: list[int] = []
        self._dead = False

    def __reduce__(self) -> tuple:
        return DecodedPool, (self.count, self.capacity)

    def get(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        """A view of image `index` of `size` (height, width), None where it is not held; then ask `settled`."""
        place = int(self._where[index])
        # An eighth of the ring is about to be overwritten: not worth the race.
        if place == ABSENT or self._head[0] - place > self.capacity - self.capacity // 8:
            return None
        self._lent.append(place)
        start = place % self.capacity
        return self._pixels[start:start + 3 * size[0] * size[1]].reshape(*size, 3)

    def clear(self) -> None:
        """Forget all images."""
        self._where[:] = ABSENT

    def settled(self) -> bool:
        """Whether all views that this process got since it last asked have stayed whole."""
        oldest = min(self._lent, default=ABSENT)
        self._lent.clear()
        return oldest == ABSENT or self._head[0] - oldest <= self.capacity

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep a copy of an image (h, w, 3), where it is not much of the ring and no other process did so by now."""
        need = image.nbytes
        if need > self.capacity // 8 or self._dead:
            return
        with self._locked() as held:
            known = int(self._where[index])
            if not held or (known != ABSENT and self._head[0] - known <= self.capacity - self.capacity // 8):
                return
            place = int(self._head[0])
            if place % self.capacity + need > self.capacity:  # the ring's end: an image lies in one piece
                place += self.capacity - place % self.capacity
            self._head[0] = place + need  # promised: from here on nobody trusts what lay there
        start = place % self.capacity
        self._pixels[start:start + need] = image.reshape(-1)
        with self._locked() as held:
            if held and self._head[0] - place <= self.capacity:
                self._where[index] = place

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        held = self._lock.acquire(timeout=PATIENCE)
        self._dead = not held  # a process died with it: from now on this one decodes for itself
        try:
            yield held
        finally:
            if held:
                self._lock.release()


def pool_for(held: np.ndarray, world: int = 1, partners: bool = True) -> DecodedPool | None:
    """A pool for images of sizes `held` (n, 2), or None where one would be of no use or the memory is too short.

    The whole dataset where it is small beside the free memory, otherwise as many as partners stand back. A miss costs a
    decode and changes nothing, so the size may differ from machine to machine. world: processes that share an epoch.
    partners: whether samples show other images than their own.
    """
    total = int(3 * held.prod(1).sum())
    free = free_memory() / processes_here()
    window = STEP * REACH // (world if STEP % world == 0 else 1)
    need = min(total, int(SPARE * window * total / max(len(held), 1))) if partners else 0
    if total * SPARE <= WHOLE_SHARE * free:
        need = total
    largest = int(3 * held.prod(1).max(initial=0))
    capacity = int(min(max(need * 8 / 7 + 2 * largest, LEAST * largest), WINDOW_SHARE * free))
    return DecodedPool(len(held), capacity) if need and capacity >= LEAST * largest else None
