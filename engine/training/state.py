"""The state of a run: what training changes (`Training`), and what it works with (`Job`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.index import Index
from data.loading.loader import Loader
from engine.optim.ema import ModelEMA
from engine.optim.schedule import Schedule
from engine.training.config import TrainConfig
from engine.training.recipe import Recipe
from engine.training.validation import FITNESS, score_of
from utils.distributed.group import Group
from utils.reporting.run_log import LossMeter
from utils.reporting.trackers import Logger
from utils.signals import StopRequest

NO_GROWTH = 2**31 - 1  # growth interval of a scaler whose scale stays 1

@dataclass(frozen=True)
class UnreadLosses:
    """The losses of a step, still on the device: names and sums (K,) of its terms, number of images, number of its
    batch in the epoch, and the side that its images were resized to (0: not resized)."""

    names: list[str]
    values: Tensor
    images: int
    batch: int
    size: int


@dataclass
class Training:
    """Everything that changes in a run. ddp_model: `model`, wrapped where several processes train."""

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    device: torch.device
    amp: torch.dtype | None
    recipe: Recipe
    group: Group = field(default_factory=Group)
    ddp_model: nn.Module | None = None
    epoch: int = 0  # the current one
    batch: int = 0  # of this epoch, the next one to train
    score: float = -1.0  # of the last validation, by `--save-best-by`
    best: float = -1.0
    best_epoch: int = 0
    ended: bool = False  # all epochs are done, or patience is exhausted
    step_images: int = 0  # of all processes, whose gradients are accumulated
    micro_batches: int = 1  # parts that a batch is computed in, more than one after running out of memory
    retry_in: int = 0  # batches until larger micro-batches are tried again
    retry_wait: int = 0  # initial value of `retry_in`
    skipped_batches: int = 0  # because their loss was not finite
    skipped_steps: int = 0  # by the scaler, because gradients were not finite although the loss was
    read_every: int = 1  # steps between two readings of the losses: each one waits for the device
    data: dict[str, dict] = field(default_factory=dict)  # split -> its `fingerprint`
    unread: list[UnreadLosses] = field(default_factory=list)
    unread_skips: list[Tensor] = field(default_factory=list)  # of each step 1 if it was skipped, else 0
    class_ap: list[float] = field(default_factory=list)  # of the last validation, by class
    meter: LossMeter = field(default_factory=LossMeter)  # of the current epoch

    def count_skipped_steps(self) -> int:
        """Read how many steps the scaler has skipped since the last reading, and count them."""
        found = int((torch.stack(self.unread_skips) > 0).sum()) if self.unread_skips else 0
        self.unread_skips.clear()
        self.skipped_steps += found
        return found

    def is_finite(self) -> bool:
        """Whether all weights and running statistics, also the averaged ones, are finite; waits once for the device."""
        tensors = [t for model in (self.model, self.ema.model) for t in model.state_dict().values()
                   if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

    def share_statistics(self) -> None:
        """Average the running statistics over processes, before they are evaluated or saved."""
        for model in (self.model, self.ema.model):
            self.group.share_statistics(model)


@dataclass
class Job:
    """What a run works with and does not change."""

    config: TrainConfig
    folder: Path
    train_index: Index
    val_index: Index
    fixed_weights: np.ndarray | None  # sampling weights of the images that flags ask for
    loader: Loader
    val_loader: Loader
    loggers: list[Logger]
    stop: StopRequest
    on_validation: Callable[[float, int], None]  # called with the score and epoch
    best_by: str = FITNESS  # the column that chooses best.pt


def update_best(run: Training, row: dict[str, float], best_by: str = FITNESS) -> bool:
    """Whether the validation of this epoch, if there was one, is the best so far by `--save-best-by`; records it.

    best_by: see `best_column`.
    """
    if "metrics/AP" not in row:
        return False
    run.score = score_of(row, best_by)
    if run.score > run.best:
        run.best, run.best_epoch = run.score, run.epoch
        return True
    return False


def patience_exhausted(run: Training, row: dict[str, float], patience: int) -> bool:
    """Whether training should stop after an epoch that was validated, without a better result for `--patience`."""
    waited = run.epoch - run.best_epoch
    return bool("metrics/AP" in row and patience and run.best_epoch and waited >= patience)
