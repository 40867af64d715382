"""A loss that is not finite: the batch is written down, so that it can be looked at and run again.

Legend: B images, K terms of the loss.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.training.state import Training
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.structures import Batch


def save_bad_batch(path: Path, model: nn.Module, batch: Batch, amp: torch.dtype | None, size: int,
                   terms: dict[str, float]) -> None:
    """Write a batch with the weights that met it: `train.py --replay` reads it.

    size: the side that the images were resized to, 0 where they were not; amp: of the forward pass.
    """
    content = {"config": model.config, "names": model.names, "model": model.state_dict(), "replay": {
        "images": batch.images.cpu(), "targets": [t.cpu() for t in batch.targets.tensors()],
        "image_ids": list(batch.image_ids), "amp": str(amp).removeprefix("torch.") if amp else "", "size": size,
        "terms": terms}}
    save_checkpoint(content, path)


class BufferGuard:
    """Remembers a model's running statistics, so that a batch that is skipped leaves no trace in them."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = [b for b in model.buffers() if b.is_floating_point()]
        self.counters = [b for b in model.buffers() if not b.is_floating_point()]
        self.kept = [b.clone() for b in (*self.buffers, *self.counters)]

    @torch.no_grad()
    def remember(self) -> None:
        torch._foreach_copy_(self.kept, self._all())

    @torch.no_grad()
    def put_back(self) -> None:
        torch._foreach_copy_(self._all(), self.kept)

    def _all(self) -> Sequence[Tensor]:
        return [*self.buffers, *self.counters]


@dataclass(frozen=True)
class BadBatch:
    """A batch whose loss is not finite: which of the epoch, the side that it was resized to, and its terms."""

    batch: int
    size: int
    terms: dict[str, float]


def read_losses(run: Training) -> BadBatch | None:
    """Fetch the losses of all steps that were not read yet at once, count them, and count the steps left out; returns
    the first that is not finite, which none after it counts."""
    unread, run.unread = run.unread, []
    rows = torch.stack([step.values for step in unread]).tolist() if unread else []  # (steps, K)
    run.count_left_out()
    for step, row in zip(unread, rows, strict=True):
        if not all(map(math.isfinite, row)):
            return BadBatch(step.batch, step.size, dict(zip(step.names, row, strict=True)))
        run.meter.add(step.names, row, step.images)
    return None


def meet_bad_batch(run: Training, batch: Batch | None, bad: BadBatch | None, guard: BufferGuard | None, folder: Path,
                   allowed: int) -> None:
    """Write down a batch whose loss is not finite; go on without it while `--skip-bad-batches` allows.

    batch, bad: None where another process met it. Raises `UserError` where no more may be skipped.
    """
    told = "in another process"
    if bad:
        path = folder / f"bad_batch{run.skipped}{f'-{run.group.rank}' if run.group.rank else ''}.pt"
        save_bad_batch(path, run.model, batch, run.amp, bad.size, bad.terms)
        terms = ", ".join(f"{name} {value:g}" for name, value in bad.terms.items())
        told = (f"({terms}) on images {batch.image_ids}; to look at it: python train.py --replay "
                f"{shlex.quote(str(path))}")
    if guard is None or run.skipped >= allowed:
        raise UserError(f"the loss is not finite {told}; {way_on(folder)}lower the learning rate, train with "
                        "--amp fp32, or allow some with --skip-bad-batches N")
    run.skipped += 1
    guard.put_back()
    run.optimizer.zero_grad(set_to_none=True)
    print(f"\nskipped a batch ({run.skipped} of {allowed}), and what its step had gathered: the loss "
          f"is not finite {told}")


def way_on(folder: Path) -> str:
    """Words for an error: that there is a checkpoint, and how to go on from it; '' where there is none."""
    there = (folder / "weights" / "last.pt").is_file()
    return f"the last checkpoint is whole (--resume {shlex.quote(str(folder))}): " if there else ""


def check_finite(run: Training, folder: Path) -> None:
    """Raises `UserError` rather than let weights or statistics that are not finite take the place of a checkpoint."""
    if not run.is_finite():
        raise UserError("weights or running statistics are no longer finite, though every loss was, so they are not "
                        f"saved; {way_on(folder)}lower the learning rate, train with --amp fp32, or with "
                        "--clip-grad 10")
