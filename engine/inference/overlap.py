"""Several images at a time: the next one is read, and the last one drawn and saved, while threads look at others."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Result = TypeVar("Item"), TypeVar("Result")


class _Cores:
    """The cores that PyTorch has while nothing runs here. Its workers set the number of the whole process: the last
    pass that ends, of several in different threads of a user, puts it back."""

    def __init__(self) -> None:
        self.lock, self.passes, self.cores = threading.Lock(), 0, 0

    def __enter__(self) -> int:
        with self.lock:
            if not self.passes:
                self.cores = torch.get_num_threads()
            self.passes += 1
            return self.cores

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.passes -= 1
            if not self.passes:
                torch.set_num_threads(self.cores)


_all_cores = _Cores()


def in_order(work: Callable[[Item], Result], items: Iterator[Item], workers: int,
             stopped: Callable[[], bool] = lambda: False) -> Iterator[Result]:
    """`work(item)` of each item, in order, by so many threads, which share the cores.

    At most `workers` + 1 items are in work or wait for it, so memory is bounded. Items are taken, and results used, in
    the thread of the caller meanwhile: what decodes, computes, draws and encodes releases the interpreter's lock. An
    error of an item, or of taking one, is raised after the results before it. A caller that stops early waits for what
    is in work, and no longer; once `stopped()`, no further result comes.
    """
    pending: deque[Future[Result]] = deque()
    failed: Exception | None = None
    over = False
    with _all_cores as cores:
        pool = ThreadPoolExecutor(workers, "look", torch.set_num_threads, (max(cores // workers, 1),))
        try:
            while (pending or not over) and not stopped():
                while not over and len(pending) <= workers:
                    try:
                        pending.append(pool.submit(work, next(items)))
                    except StopIteration:
                        over = True
                    except Exception as error:  # raised below
                        failed, over = error, True
                if pending:
                    yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
    if failed:
        raise failed
