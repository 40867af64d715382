"""A loss that is not finite: the batch is written down, so that it can be looked at and run again.

Legend: B images, K terms of the loss.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.state import Training
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


def read_losses(run: Training, unread: list[tuple[Tensor, int]], names: list[str]) -> tuple[int, dict] | None:
    """Fetch the losses of some steps at once, count them and empty the list.

    unread: sums (K,) and images of each step. Where one is not finite: how many steps ago that was, and its terms.
    """
    rows = torch.stack([values for values, _ in unread]).tolist()  # (steps, K)
    images = [count for _, count in unread]
    unread.clear()
    for place, row in enumerate(rows):
        if not all(map(math.isfinite, row)):
            return len(rows) - 1 - place, dict(zip(names, row, strict=True))
    run.meter.add(names, [sum(column) for column in zip(*rows, strict=True)], sum(images))
    return None


def meet_bad_batch(run: Training, batch: Batch, size: int, bad: tuple[int, dict] | None, guard: BufferGuard | None,
                   folder: Path, allowed: int) -> None:
    """Write down a batch whose loss is not finite; go on without it while `--skip-bad-batches` allows.

    size: as in `save_bad_batch`; bad: from `read_losses`, None where another process met it. Raises `UserError` where
    no more may be skipped.
    """
    told = "in another process"
    if bad:
        path = folder / f"bad_batch{run.skipped}{f'-{run.group.rank}' if run.group.rank else ''}.pt"
        save_bad_batch(path, run.model, batch, run.amp, size, bad[1])
        terms = ", ".join(f"{name} {value:g}" for name, value in bad[1].items())
        told = (f"({terms}) on images {batch.image_ids}; to look at it: python train.py --replay "
                f"{shlex.quote(str(path))}")
    if run.skipped >= allowed:
        raise UserError(f"the loss is not finite {told}; the last checkpoint is whole: lower the learning rate, train "
                        "with --amp fp32, or allow some with --skip-bad-batches N")
    run.skipped += 1
    guard.put_back()
    run.optimizer.zero_grad(set_to_none=True)
    print(f"\nskipped a batch ({run.skipped} of {allowed}), and what its step had gathered: the loss "
          f"is not finite {told}")
