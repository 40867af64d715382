"""Several processes on the loopback, as torchrun would start them."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from utils.distributed.group import Group
from utils.distributed.launch import join


def together(work: Callable[[Group, Path], Any], folder: Path, world: int = 2, *,
             environment: dict[str, str] | None = None, late: float = 0.0, timeout_s: float = 120.0) -> list[Any]:
    """What `work`, a function at the top of its module, returns in each of `world` processes that joined.

    environment: more variables that torchrun would set. late: seconds by which all but the first process join later.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # one process imports what all tests need and is forked from then on: the imports cost more than the tests
    multiprocessing.set_forkserver_preload(["val", "models", __name__])
    variables = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), **(environment or {})}
    mp.start_processes(_enter, (work, folder, variables, late, timeout_s), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def _enter(rank: int, work: Callable, folder: Path, variables: dict[str, str], late: float, timeout_s: float) -> None:
    torch.set_num_threads(1)
    os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
    if rank:
        time.sleep(late)
    group, _ = join("cpu", timeout_s=timeout_s)
    with group.session():
        torch.save(work(group, folder), folder / f"rank{rank}.pt")
