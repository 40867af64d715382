"""Losses that are not finite: found, and the batch saved so that it can be inspected and run again (`--replay`).

Legend: B images, K terms of the loss.
"""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.training.state import Job, Training
from utils.checkpoint import save_checkpoint
from utils.commands import command
from utils.errors import UserError
from utils.structures import Batch


def save_bad_batch(path: Path, model: nn.Module, batch: Batch, amp: torch.dtype | None, size: int,
                   terms: dict[str, float]) -> None:
    """Save a batch with the present weights for `train.py --replay`.

    size: the side that the images were resized to, 0 if they were not; amp: of the forward pass.
    """
    content = {"config": model.config, "names": model.names, "model": model.state_dict(), "replay": {
        "images": batch.images.cpu(), "targets": [t.cpu() for t in batch.targets.tensors()],
        "image_ids": list(batch.image_ids), "amp": str(amp).removeprefix("torch.") if amp else "", "size": size,
        "terms": terms}}
    save_checkpoint(content, path)


class BufferSnapshot:
    """A copy of a model's running statistics and counters, to restore them after a batch that is skipped."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(model.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_copy_(self.kept, self.buffers)

    @torch.no_grad()
    def restore(self) -> None:
        torch._foreach_copy_(self.buffers, self.kept)


@dataclass(frozen=True)
class BadBatch:
    """A batch whose loss is not finite: its number in the epoch, the side that it was resized to, and its terms."""

    batch: int
    size: int
    terms: dict[str, float]


def read_losses(run: Training) -> BadBatch | None:
    """Fetch all unread losses at once and count them, and the skipped steps; returns the first that is not finite, at
    which counting ends."""
    unread, run.unread = run.unread, []
    rows = torch.stack([step.values for step in unread]).tolist() if unread else []  # (steps, K)
    run.count_skipped_steps()
    for step, row in zip(unread, rows, strict=True):
        if not all(map(math.isfinite, row)):
            return BadBatch(step.batch, step.size, dict(zip(step.names, row, strict=True)))
        run.meter.add(step.names, row, step.images)
    return None


def all_finite(job: Job, run: Training, snapshot: BufferSnapshot | None = None, latest: Batch | None = None) -> bool:
    """Read the unread losses: False where one is not finite and may be skipped, in all processes alike. latest: batch
    `run.batch`. Raises `UserError` without a snapshot, and where no more batches may be skipped."""
    bad = read_losses(run)
    if not run.group.any(bad is not None):
        return True
    if bad and (latest is None or bad.batch != run.batch):
        latest = job.loader.batch(bad.batch)
    handle_nonfinite_batch(job, run, latest, bad, snapshot)
    return False


def handle_nonfinite_batch(job: Job, run: Training, batch: Batch | None, bad: BadBatch | None,
                           snapshot: BufferSnapshot | None) -> None:
    """Save a batch whose loss is not finite; undo its step while `--skip-bad-batches` allows.

    batch, bad: None where it is another process's. Raises `UserError` where no more may be skipped.
    """
    allowed, what = job.config.skip_bad_batches, "in another process"
    if bad:
        rank = f"-{run.group.rank}" if run.group.rank else ""
        path = job.folder / f"bad_batch{run.skipped_batches}{rank}.pt"
        save_bad_batch(path, run.model, batch, run.amp, bad.size, bad.terms)
        terms = ", ".join(f"{name} {value:g}" for name, value in bad.terms.items())
        what = (f"({terms}) on images {batch.image_ids}; to inspect it: {command('train')} --replay "
                f"{shlex.quote(str(path))}")
    if snapshot is None or run.skipped_batches >= allowed:
        raise UserError(f"the loss is not finite {what}; {resume_hint(job.folder)}lower the learning rate, train with "
                        "--amp fp32, or allow some with --skip-bad-batches N", "not-finite")
    run.skipped_batches += 1
    snapshot.restore()
    run.optimizer.zero_grad(set_to_none=True)
    print(f"\nskipped a batch ({run.skipped_batches} of {allowed}) and the gradients accumulated with it: the loss is "
          f"not finite {what}")


def resume_hint(folder: Path) -> str:
    """For an error message: how to resume from the last checkpoint; '' where there is none."""
    there = (folder / "weights" / "last.pt").is_file()
    return f"the last checkpoint is intact (--resume {shlex.quote(str(folder))}): " if there else ""


def check_finite(run: Training, folder: Path) -> None:
    """Raises `UserError` rather than overwrite a checkpoint with weights or statistics that are not finite."""
    if not run.is_finite():
        raise UserError("weights or running statistics are no longer finite, though every loss was, so they are not "
                        f"saved; {resume_hint(folder)}lower the learning rate, train with --amp fp32, or with "
                        "--clip-grad 10", "not-finite")
