"""One call for each of many files, in threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

CHUNK = 128  # files per task of a thread
THREADS = 8  # more than many a machine has cores: over a network the wait is for the disk

Item, Found = TypeVar("Item"), TypeVar("Found")


def in_threads(call: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """`call(item)` for each item, in order. Decoding, hashing and waiting for the disk all leave Python's lock."""
    chunks = [items[i:i + CHUNK] for i in range(0, len(items), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(lambda chunk: [call(item) for item in chunk], chunks):
            yield from part
