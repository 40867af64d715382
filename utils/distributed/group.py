"""Several processes that train one model: who am I, what do the others have, and one model for all.

torchrun starts the processes and ends all of them when one fails. Small things (numbers, flags, plain objects) travel
through gloo from the CPU's memory, so that asking the others never waits for a GPU; gradients go through nccl on GPUs.
"""

import contextlib
import inspect
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from utils.device import select_device
from utils.distributed.sync_bn import synchronise
from utils.errors import UserError

POLL_S = 0.02  # between two looks for processes that are starting
TIMEOUT_S = 1800.0  # the longest that one process may work alone while others wait: reading a new dataset, a last table


@dataclass(frozen=True)
class Group:
    """The processes of this job; `Group()` is a process alone, for which everything here does nothing.

    rank: of `world`, 0 is the main one, which prints and writes; local_rank: the same within this machine.
    Every method that asks the others must be called by all processes, in the same order.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, without gradient, as a new tensor; where the tensor is on a GPU nothing waits for it."""
        if self.alone:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over processes, without gradient, as a new floating tensor."""
        return tensor if self.alone else self.sum(tensor) / self.world

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so. Nothing waits for a GPU."""
        return bool(self.sum(torch.tensor(int(flag)))) if not self.alone else bool(flag)

    def gather(self, item: Any) -> list[Any] | None:
        """On main the plain objects of all processes, by rank; None on the others."""
        if self.alone:
            return [item]
        items: list[Any] | None = [None] * self.world if self.main else None
        dist.gather_object(item, items, dst=0)
        return items

    def broadcast(self, item: Any) -> Any:
        """Main's plain object, on every process."""
        if self.alone:
            return item
        box = [item if self.main else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """One process of each machine does the block before its others: what it caches on disk, they find."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def wrap(self, model: nn.Module, sync_bn: bool = False) -> nn.Module:
        """The model whose `backward` averages gradients over processes; it starts from main's weights everywhere.

        The model itself when alone. sync_bn: batch norm over the images of all processes, a change in place; without
        it each process follows its own statistics, and `share_statistics` must be called before they are used.
        """
        if self.alone:
            return model
        if sync_bn:
            synchronise(model)
        # Of 1x1 weights in channels-last order: the strides of sides of one element differ, the memory does not.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device = next(model.parameters()).device
        words = inspect.signature(DistributedDataParallel).parameters
        keep_buffers = {"forward_sync_buffers" if "forward_sync_buffers" in words else "broadcast_buffers": False}
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None,
                                       gradient_as_bucket_view=True, **keep_buffers)

    def no_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager:
        """For a batch that is not the last one of a step: its gradients stay here until that one's."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    @torch.no_grad()
    def share_statistics(self, model: nn.Module) -> None:
        """Make the running statistics of batch norms their mean over processes, the same everywhere; in place, with one
        exchange, and without waiting for a GPU. Before averaged weights, a checkpoint or a resume depend on them."""
        if self.alone:
            return
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        statistics = [t for m in norms for t in (m.running_mean, m.running_var)]
        if statistics:
            mean = self.mean(torch.cat(statistics))
            torch._foreach_copy_(statistics, list(mean.split([len(t) for t in statistics])))

    def leave(self) -> None:
        """Part in peace, at the end of the work. After an error do not: torchrun ends the others."""
        if not self.alone:
            self.wait()
            dist.destroy_process_group()

    @contextlib.contextmanager
    def session(self) -> Iterator["Group"]:
        """A block in which only main prints to stdout; ends with `leave`. Where another process ends first, what torch
        says of the broken connection becomes one sentence."""
        if self.alone:
            yield self
            return
        with contextlib.ExitStack() as stack:
            if not self.main:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
            try:
                yield self
                self.leave()
            except RuntimeError as error:
                if not _is_lost(error):
                    raise
                raise UserError(f"process {self.rank} of {self.world}: another process of this job has ended or is "
                                f"silent; its own message tells why ({str(error).splitlines()[0][:120]})") from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error speaks of the connection to other processes."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer",
                                         "NCCL communicator was aborted"))


def launched() -> int:
    """How many processes torchrun started for this job; 1 without it. Raises `UserError` for a torn environment."""
    world = os.environ.get("WORLD_SIZE", "")
    if world in ("", "1"):
        return 1
    wrong = [word for word in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
             if not os.environ.get(word, "").isdecimal()]
    wrong += [] if os.environ.get("MASTER_ADDR") else ["MASTER_ADDR"]
    if wrong:
        raise UserError(f"WORLD_SIZE={world} asks for several processes, but {', '.join(wrong)} is not as torchrun "
                        "sets it; start with torchrun --nproc-per-node N, or unset WORLD_SIZE")
    return int(world)


def join(device_name: str = "", timeout_s: float = TIMEOUT_S) -> tuple[Group, torch.device]:
    """Join the job that torchrun started, and take this process's device; `Group()` where there is none.

    device_name: `--device`: '' for all GPUs or else the CPU, 'cpu', or the GPUs to use, such as '0,2'. timeout_s: a
    process that does not answer for so long ends the job. Raises `UserError` for more processes than GPUs.
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
    store = dist.PrefixStore(_name_of_this_start(store, group, timeout_s), store)
    dist.init_process_group(backend, store=store, rank=group.rank, world_size=world, timeout=timeout)
    return group, device


def _name_of_this_start(store: dist.Store, group: Group, timeout_s: float) -> str:
    """A name that main draws and every process of this start of the job learns.

    torchrun keeps its store when it starts a job anew: without keys of their own the new processes would find the
    addresses of the dead ones there, and wait for them. How often it has started is no such name: each machine counts
    for itself. So a process asks with a word that only it knows, main answers whatever word it finds, and is done when
    all have heard its own name; what the dead had asked and heard does not matter.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    if not group.main:
        store.set(f"asks/{group.rank}", own)
        try:
            name = store.get(f"answer/{own}").decode()
        except dist.DistStoreError:
            raise UserError(f"process {group.rank} of {group.world}: the main process did not come within "
                            f"{timeout_s:g} s; its own message tells why") from None
        store.set(f"heard/{name}/{group.rank}", "")
        return name
    missing = list(range(1, group.world))
    while missing := [rank for rank in missing if not store.check([f"heard/{own}/{rank}"])]:
        if time.monotonic() > deadline:
            raise UserError(f"process 0 of {group.world}: the processes {missing} did not come within {timeout_s:g} s; "
                            "their own messages tell why")
        for rank in missing:
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", own)
        time.sleep(POLL_S)
    return own


def own_device(device_name: str, local_rank: int, local_world: int) -> torch.device:
    """The device of one of `local_world` processes on this machine. Raises `UserError` where GPUs are too few."""
    given = str(device_name).strip().lower()
    if given == "cpu" or (given == "" and not torch.cuda.is_available()):
        return torch.device("cpu")
    names = given.split(",") if given not in ("", "cuda") else [str(i) for i in range(torch.cuda.device_count())]
    devices = [select_device(name) for name in names]  # each is there
    if len(set(devices)) < local_world:
        raise UserError(f"--device {device_name or 'of all GPUs'}: {local_world} processes for {len(set(devices))} "
                        f"GPU{'s' * (len(set(devices)) != 1)}; start torchrun with --nproc-per-node {len(set(devices))}"
                        ", or use --device cpu")
    return devices[local_rank]
