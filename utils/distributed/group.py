"""The processes of a distributed job: rank, collective operations on small values, and the wrapped model.

torchrun starts the processes and ends all of them when one fails. Small values (numbers, flags, plain objects) go
through gloo in CPU memory, so that exchanging them never waits for a GPU; gradients go through nccl on GPUs.
"""

import contextlib
import inspect
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from utils.distributed.sync_bn import synchronise
from utils.errors import UserError


@dataclass(frozen=True)
class Group:
    """The processes of this job; `Group()` is a single process, for which every method here does nothing.

    rank: of `world`, 0 is the main process, which prints and writes; local_rank: the rank within this machine.
    Every collective method must be called by all processes, in the same order.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether this is the only process."""
        return self.world == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, without gradient, as a new tensor; asynchronous where the tensor is on a GPU."""
        if self.is_single:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over processes, without gradient, as a new floating tensor."""
        return tensor if self.is_single else self.sum(tensor) / self.world

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; does not wait for a GPU."""
        return bool(self.sum(torch.tensor(int(flag)))) if not self.is_single else bool(flag)

    def gather(self, item: Any) -> list[Any] | None:
        """The plain objects of all processes by rank, on the main process; None on the others."""
        if self.is_single:
            return [item]
        items: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(item, items, dst=0)
        return items

    def broadcast(self, item: Any) -> Any:
        """The main process's plain object, on every process."""
        if self.is_single:
            return item
        box = [item if self.is_main else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Barrier: returns when all processes have called it."""
        self.any(False)

    @contextlib.contextmanager
    def local_rank0_first(self) -> Iterator[None]:
        """Local rank 0 of each machine runs the block first; its other processes then find what it cached on disk."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def wrap(self, model: nn.Module, sync_bn: bool = False) -> nn.Module:
        """The model whose `backward` averages gradients over processes, with the main process's weights on all of them.

        The model itself for a single process. sync_bn: batch norm over the images of all processes, changed in place;
        without it each process tracks statistics of its own, and `share_statistics` must be called before their use.
        """
        if self.is_single:
            return model
        if sync_bn:
            synchronise(model)
        # 1x1 weights in channels-last order: only strides of dimensions of one element differ, not the memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device = next(model.parameters()).device
        parameters = inspect.signature(DistributedDataParallel).parameters
        keep_buffers = {"forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers": False}
        return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None,
                                       gradient_as_bucket_view=True, **keep_buffers)

    def no_sync(self, wrapped: nn.Module) -> contextlib.AbstractContextManager:
        """A context for the batches of a step before its last one: gradients are accumulated locally, not exchanged."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    @torch.no_grad()
    def share_statistics(self, model: nn.Module) -> None:
        """Replace the running statistics of batch norms by their mean over processes, in place, with one exchange and
        without waiting for a GPU. To be called before they are averaged, evaluated or saved."""
        if self.is_single:
            return
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        statistics = [t for m in norms for t in (m.running_mean, m.running_var)]
        if statistics:
            mean = self.mean(torch.cat(statistics))
            torch._foreach_copy_(statistics, list(mean.split([len(t) for t in statistics])))

    def shutdown(self) -> None:
        """Barrier, then destroy the process group. Not after an error: torchrun ends the other processes."""
        if not self.is_single:
            self.wait()
            dist.destroy_process_group()

    @contextlib.contextmanager
    def session(self) -> Iterator["Group"]:
        """A block in which only the main process prints to stdout; ends with `shutdown`. Raises `UserError` instead of
        torch's error about a broken connection where another process ended first."""
        if self.is_single:
            yield self
            return
        with contextlib.ExitStack() as stack:
            if not self.is_main:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
            try:
                yield self
                self.shutdown()
            except RuntimeError as error:
                if not _is_lost(error):
                    raise
                raise UserError(f"process {self.rank} of {self.world}: another process of this job has ended or is "
                                f"silent; see its own message ({str(error).splitlines()[0][:120]})", code="lost-process"
                                ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error is about the connection to other processes."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer",
                                         "NCCL communicator was aborted"))
