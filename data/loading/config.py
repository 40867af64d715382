"""How batches are made, for training and for evaluation."""

import multiprocessing
import sys
from dataclasses import dataclass

import torch

from utils.frame import Frame


@dataclass(frozen=True)
class LoaderConfig:
    """Settings of a loader; `train_loader` and `eval_loader` say which they use."""

    batch_size: int  # images of one batch of this process
    workers: int = 0  # processes that make batches; 0: this one makes them
    seed: int = 0  # of the order of images and of augmentation
    rank: int = 0  # this process among those that share an epoch
    world: int = 1  # how many processes share an epoch
    cache: str | None = None  # None, "ram" or "disk"; "gpu" holds all training images on `device` and draws there
    pin_memory: bool = False  # page-locked batches, which a GPU fetches while it computes
    device: torch.device | str | None = None  # of cache "gpu"; None: the GPU where there is one
    rect: bool = False  # frames of the images' aspect instead of square ones
    frame: Frame = Frame()  # how images become the frames of the model
    start_method: str | None = None  # of workers: "fork", "spawn", "forkserver"; None: fork on Linux, spawn elsewhere

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or not 0 <= self.rank < self.world:
            raise ValueError(f"a loader needs batches of 1 image or more, 0 workers or more and a rank below the world "
                             f"size: {self}")

    @property
    def worker_start(self) -> str:
        """The start method of workers that is used here. macOS can fork, but its frameworks do not survive it."""
        return self.start_method or ("fork" if sys.platform == "linux" else "spawn")

    def lock(self) -> "multiprocessing.synchronize.Lock":
        """A lock that can be handed to workers."""
        return multiprocessing.get_context(self.worker_start).Lock()
