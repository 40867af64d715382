"""Processes that make batches: how they start, and how they end with the process that started them."""

import atexit
import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterator
from functools import partial

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.loading.config import LoaderConfig
from utils.errors import UserError

PREFETCH = 2  # batches that each worker prepares ahead
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SEMAPHORES = 4  # of a queue: locks of both ends and its count, and one of an event


def data_loader(owner: object, maker: Dataset, requests: Sampler, config: LoaderConfig,
                pin_memory: bool = False) -> DataLoader:
    """`maker[request]` of each request in turn, a whole batch, made by `config.workers` processes.

    They start with the first pass and live as long as `owner`.
    """
    start_method = config.worker_start if config.workers else None
    loader = DataLoader(
        maker, sampler=requests, batch_size=None, num_workers=config.workers, worker_init_fn=init_worker,
        persistent_workers=config.workers > 0, prefetch_factor=PREFETCH if config.workers else None,
        pin_memory=pin_memory, multiprocessing_context=start_method,
        generator=torch.Generator().manual_seed(config.seed))  # its own: iterating leaves the global one alone
    _end_workers_with(owner, loader)
    return loader


def start_pass(loader: DataLoader) -> Iterator:
    """`iter(loader)`, with signals held back meanwhile: none may reach a worker before it has learned to ignore them.
    What comes for this process is delivered afterwards. Raises `UserError` where the system has no room for workers."""
    if loader.num_workers and getattr(loader, "_iterator", None) is None:
        _check_semaphores(loader)
    if not hasattr(signal, "pthread_sigmask"):
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_semaphores(loader: DataLoader) -> None:
    """Whether the queues of so many workers can be made: DataLoader that fails midway leaves workers behind, which
    nobody ends. Each semaphore is a page of /dev/shm."""
    context = loader.multiprocessing_context or multiprocessing
    try:
        for_each = [context.Lock() for _ in range(SEMAPHORES * (loader.num_workers + 2))]
    except OSError as error:
        raise UserError(f"--workers {loader.num_workers}: the system has no room for the queues of so many processes "
                        f"({error.strerror or error}), in a container because of a small /dev/shm; use --workers 0, or "
                        "start the container with --shm-size 1g", "no-memory") from None
    del for_each  # they go with it


def _end_workers_with(owner: object, loader: DataLoader) -> None:
    """At Python's exit, end a loader's workers where its owner still lives.

    Python would send them a SIGTERM, which they ignore, and wait for ever; PyTorch ends workers only before the exit.
    """
    end = partial(_end_workers, weakref.ref(loader))
    atexit.register(end)  # the last that is registered runs first: before theirs
    weakref.finalize(owner, atexit.unregister, end)


def _end_workers(loader: "weakref.ref[DataLoader]") -> None:
    iterator = getattr(loader(), "_iterator", None)
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()  # one that waits for something that a killed one held would wait for ever


def init_worker(_: int) -> None:
    """One thread per worker: more would compete for the cores. Only the main process reacts to signals to stop."""
    for stop in STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # `start_pass` held them back
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # PyTorch's watchdog, which starts after this, would take the process that adopted us for it
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
