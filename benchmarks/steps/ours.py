"""The loop of train.py, timed from outside: `python -m benchmarks.steps.ours CONFIG.json` (see `rounds.py`)."""

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import train
from benchmarks.steps.batches import load_batch
from benchmarks.steps.rounds import Rounds
from data.augment.policies.yolo import YoloPolicy
from data.loading.loader import Loader
from engine.training.config import TrainConfig
from engine.training.inputs import open_loaders, open_splits
from engine.training.setup import make_training, start_model
from engine.training.state import Training
from models.detector import Detector
from utils.device import seed_everything
from utils.distributed.group import Group
from utils.signals import StopRequest
from utils.structures import Batch, Letterbox


class Resident:
    """The same batch every time, on the device already; `len()` batches an epoch."""

    def __init__(self, batch: Batch, batches: int) -> None:
        self.batch, self.batches = batch, batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch for _ in range(self.batches))

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Every epoch is the same."""


class Timed:
    """A loader whose batches are handed out when their round comes; it measures how long the device waits for them."""

    def __init__(self, loader: Iterable[Batch], rounds: Rounds) -> None:
        self.loader, self.rounds = loader, rounds

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            since = self._mark()
            batch = next(batches, None)
            if batch is None:
                return
            self.rounds.waited(partial(self._between, since, self._mark()))
            self.rounds.before_step()
            yield batch

    def batch(self, number: int) -> Batch:
        """Batch `number` of the epoch once more."""
        return self.loader.batch(number)

    def _mark(self) -> "torch.cuda.Event | float":
        """Now, on the device's own clock: it gets there when all is done that it was asked for before."""
        if self.rounds.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.rounds.device))
        return event

    def _between(self, since: "torch.cuda.Event | float", ready: "torch.cuda.Event | float") -> float:
        """Seconds from one mark to the other, on a GPU between the end of a step and the arrival of a batch."""
        return ready - since if isinstance(since, float) else since.elapsed_time(ready) / 1e3


def flags_of(config: dict[str, Any]) -> list[str]:
    """The flags of train.py for a configuration."""
    flags = ["--cfg", config["model"], "--data", config["data"] or "-", "--imgsz", config["imgsz"], "--batch-size",
             config["batch"], "--epochs", config["epochs"], "--optimizer", config["optimizer"], "--amp", config["amp"],
             "--workers", config["workers"], "--close-mosaic", 0, "--noplots", *["--compile"] * config["compile"],
             *["--cache", "gpu"] * (config["source"] == "gpu")]
    return [str(word) for word in flags]


def make_loader(config: dict[str, Any], settings: TrainConfig, augment: dict[str, Any], model: Detector,
                device: torch.device, layout: torch.memory_format) -> Resident | Loader:
    """Batches from where the configuration says: `resident`, `workers`, or `gpu`, all images on the device."""
    if config["source"] == "resident":
        images, targets = load_batch(Path(config["batch_file"]), config["imgsz"])
        frame = tuple(images.shape[2:])
        batch = Batch(images.to(device, memory_format=layout), targets.to(device), list(range(len(images))),
                      [Letterbox(frame, frame, (1.0, 1.0), (0, 0))] * len(images))
        return Resident(batch, config["batches"])
    splits = open_splits(settings, Group())
    loader, _ = open_loaders(settings, YoloPolicy(**augment), splits, None, model, Group(), device)
    return loader


def facts_of(run: Training, layout: torch.memory_format, compiled: bool) -> dict[str, Any]:
    return {"program": f"ours{', compiled' if compiled else ''}",
            "precision": str(run.amp or torch.float32).removeprefix("torch."),
            "layout": "channels_last" if layout == torch.channels_last else "contiguous",
            "optimizer": type(run.optimizer).__name__, "parameters": sum(p.numel() for p in run.model.parameters())}


def main(path: str) -> None:
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(config["threads"])
    device = torch.device(config["device"])
    layout = torch.contiguous_format if config["layout"] == "contiguous" else torch.channels_last
    if layout == torch.contiguous_format:  # train.py knows channels_last alone: its step on contiguous images
        train.to_device = lambda settings, run, batch: (batch.images.to(run.device).contiguous(),
                                                        batch.targets.to(run.device), 0)
    rounds = Rounds(device)
    settings = TrainConfig.from_args(train.build_parser().parse_args(flags_of(config)))
    seed_everything(settings.seed, device)
    names = config["names"]
    model, settings, recipe = start_model(settings, names, lambda placement: np.zeros((0, 2)))
    model = model.to(device, memory_format=layout)
    loader = make_loader(config, settings, recipe.augment, model, device, layout)
    run = make_training(settings, recipe, model, Group(), device, len(loader))
    with tempfile.TemporaryDirectory() as folder, StopRequest() as stop:
        timed = Timed(loader, rounds)
        # the part that an epoch needs
        job = SimpleNamespace(config=settings, folder=Path(folder), loader=timed, stop=stop)
        rounds.ready(**facts_of(run, layout, settings.compile))
        while True:
            loader.set_epoch(run.epoch)
            train.train_epoch(job, run)
            run.batch = 0


if __name__ == "__main__":
    main(sys.argv[1])
