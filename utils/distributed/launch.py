"""Joining the job that torchrun started: how many processes it has, which one this is, and which device is its own."""

import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from utils.device import select_device
from utils.distributed.group import Group
from utils.errors import UserError

POLL_S = 0.02  # between two checks for processes that are starting
TIMEOUT_S = 1800.0  # the longest that one process may work alone while others wait: reading a new dataset, a last table


def launched() -> int:
    """The number of processes of this job, 1 without torchrun. Raises `UserError` for an incomplete environment."""
    world = os.environ.get("WORLD_SIZE", "")
    if world in ("", "1"):
        return 1
    wrong = [name for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
             if not os.environ.get(name, "").isdecimal()]
    wrong += [] if os.environ.get("MASTER_ADDR") else ["MASTER_ADDR"]
    if wrong:
        raise UserError(f"WORLD_SIZE={world} asks for several processes, but {', '.join(wrong)} is not as torchrun "
                        "sets it; start with torchrun --nproc-per-node N, or unset WORLD_SIZE", code="bad-environment")
    return int(world)


def join(device_name: str = "", timeout_s: float = TIMEOUT_S) -> tuple[Group, torch.device]:
    """Join the job that torchrun started: the group and the device of this process; `Group()` without torchrun.

    device_name: `--device`: '' for all GPUs or else the CPU, 'cpu', or the GPUs to use, such as '0,2'. timeout_s: how
    long a process may not answer before the job ends. Raises `UserError` for more processes than GPUs.
    """
    world = launched()
    if world == 1:
        return Group(), select_device(device_name)
    group = Group(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]))
    device = own_device(device_name, group.local_rank, int(os.environ.get("LOCAL_WORLD_SIZE") or world))
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=timeout_s)
    store = next(dist.rendezvous("env://", group.rank, world, timeout=timeout))[0]
    store.set_timeout(timeout)
    store = dist.PrefixStore(_rendezvous_prefix(store, group, timeout_s), store)
    dist.init_process_group(backend, store=store, rank=group.rank, world_size=world, timeout=timeout)
    return group, device


def _rendezvous_prefix(store: dist.Store, group: Group, timeout_s: float) -> str:
    """A key prefix drawn by the main process and known to every process of this start of the job.

    torchrun keeps its store when it restarts a job: without keys of their own the new processes would find the
    addresses of the dead ones there, and wait for them. The restart count is no such key, since each machine counts
    for itself. So every process writes a token of its own, the main process answers each token that it finds, and is
    done when all ranks have confirmed its prefix; tokens and confirmations of dead processes have no effect.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    if not group.is_main:
        store.set(f"token/{group.rank}", own)
        try:
            name = store.get(f"answer/{own}").decode()
        except dist.DistStoreError:
            raise UserError(f"process {group.rank} of {group.world}: the main process did not join within "
                            f"{timeout_s:g} s; see its own message", code="lost-process") from None
        store.set(f"confirmed/{name}/{group.rank}", "")
        return name
    missing = list(range(1, group.world))
    while missing := [rank for rank in missing if not store.check([f"confirmed/{own}/{rank}"])]:
        if time.monotonic() > deadline:
            raise UserError(f"process 0 of {group.world}: the processes {missing} did not join within {timeout_s:g} s; "
                            "see their own messages", code="lost-process")
        for rank in missing:
            if store.check([f"token/{rank}"]):
                store.set(f"answer/{store.get(f'token/{rank}').decode()}", own)
        time.sleep(POLL_S)
    return own


def own_device(device_name: str, local_rank: int, local_world: int) -> torch.device:
    """The device of one of `local_world` processes on this machine. Raises `UserError` for too few GPUs."""
    given = str(device_name).strip().lower()
    if given == "cpu" or (given == "" and not torch.cuda.is_available()):
        return torch.device("cpu")
    names = given.split(",") if given not in ("", "cuda") else [str(i) for i in range(torch.cuda.device_count())]
    devices = [select_device(name) for name in names]
    if len(set(devices)) < local_world:
        raise UserError(f"--device {device_name or 'of all GPUs'}: {local_world} processes for {len(set(devices))} "
                        f"GPU{'s' * (len(set(devices)) != 1)}; start torchrun with --nproc-per-node {len(set(devices))}"
                        ", or use --device cpu", code="missing-device")
    return devices[local_rank]
