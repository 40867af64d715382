"""One call for each of many files, in threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

CHUNK = 128  # files per task of a thread, at most
LEAST = 8  # threads, more than many a machine has cores: over a network the wait is for the disk

Item, Found = TypeVar("Item"), TypeVar("Found")


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that live as long as the process.

    A thread that ends holds OpenCV's locks for a moment after it was joined: a worker forked in that moment finds them
    locked, and waits for ever at its first call of OpenCV.
    """
    return ThreadPoolExecutor(max(LEAST, os.cpu_count() or 1))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads stay behind


def in_threads(call: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """`call(item)` for each item, in order. Decoding, hashing and waiting for the disk all leave Python's lock."""
    size = max(1, min(CHUNK, len(items) // (4 * LEAST)))
    chunks = [items[i:i + size] for i in range(0, len(items), size)]
    tasks = [_pool().submit(lambda chunk: [call(item) for item in chunk], chunk) for chunk in chunks]
    try:
        for task in tasks:
            yield from task.result()
    finally:  # also where a call failed or nobody asks on: no thread is at work when this is over
        for task in tasks:
            task.cancel()
        wait(tasks)
