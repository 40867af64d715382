"""Arrays whose memory a process shares with the workers that it starts, by fork or by spawn.

On POSIX systems the memory is a file without a name: `memfd_create` on Linux, which takes nothing of /dev/shm (64 MB in
a container), an unlinked temporary file elsewhere. Its descriptor is inherited by forked processes and duplicated for
spawned ones. On Windows it is a named mapping.
"""

import math
import mmap
import os
import tempfile
import uuid
import weakref
from multiprocessing import context, reduction
from pathlib import Path

import numpy as np

POSIX = os.name == "posix"


class SharedArray:
    """`array`: zeros of `shape`; what one process writes, the others see.

    Workers get it with the object that holds it: inherited where they are forked, pickled while they are spawned. At
    any other time pickling raises RuntimeError. Nothing is locked.
    """

    def __init__(self, shape: int | tuple[int, ...], dtype: np.typing.DTypeLike = np.uint8) -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        self._map(shape, dtype, _new_memory(max(math.prod(shape) * dtype.itemsize, 1)))

    @classmethod
    def map_file(cls, path: Path) -> "SharedArray":
        """The bytes of a file, uint8 and read-only, mapped: pages are read when they are looked at."""
        shared = cls.__new__(cls)
        handle = os.open(path, os.O_RDONLY) if POSIX else str(path)
        shared._map((path.stat().st_size,), np.dtype(np.uint8), handle, writable=False)
        return shared

    def _map(self, shape: tuple[int, ...], dtype: np.dtype, handle: int | str, writable: bool = True) -> None:
        """handle: a file descriptor on POSIX systems, a mapping's name or a file's path on Windows."""
        self._handle, self._writable = handle, writable
        size = max(math.prod(shape) * dtype.itemsize, 1)
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        if POSIX:
            memory = mmap.mmap(handle, size, access=access)
            weakref.finalize(self, os.close, handle)
        elif writable:
            memory = mmap.mmap(-1, size, tagname=handle)
        else:
            with Path(handle).open("rb") as file:
                memory = mmap.mmap(file.fileno(), size, access=access)
        self.array = np.ndarray(shape, dtype, memory)

    def __getstate__(self) -> tuple:
        context.assert_spawning(self)
        handle = reduction.DupFd(self._handle) if POSIX else self._handle
        return self.array.shape, self.array.dtype, handle, self._writable

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, handle, writable = state
        self._map(shape, dtype, handle.detach() if POSIX else handle, writable)


def _new_memory(size: int) -> int | str:
    """A descriptor or a name of `size` bytes of zeros."""
    if not POSIX:
        return f"assn-{uuid.uuid4()}"
    try:
        handle = os.memfd_create("assn")
    except (AttributeError, OSError):  # macOS, or a container that forbids it
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, size)
    return handle
