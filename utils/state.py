"""Everything that changes while a run goes, and so everything that a checkpoint must hold."""

import argparse
import os
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import memory_gb
from utils.distributed import Group
from utils.ema import ModelEMA
from utils.errors import UserError
from utils.optim import Schedule
from utils.recipe import Recipe
from utils.report import LossMeter

COUNTERS = ("epoch", "batch", "score", "best", "best_epoch", "ended", "split", "skipped", "class_ap")


@dataclass
class Training:
    """A run. forward: `model`, wrapped for several processes where there are some."""

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    device: torch.device
    amp: torch.dtype | None
    recipe: Recipe
    group: Group = field(default_factory=Group)
    forward: nn.Module | None = None
    epoch: int = 0  # the one in work
    batch: int = 0  # of this epoch, the next one to train
    score: float = -1.0  # of the last validation, by what best.pt is chosen by
    best: float = -1.0
    best_epoch: int = 0
    ended: bool = False  # all epochs are done, or nothing improves any more
    split: int = 1  # parts that a batch is computed in, more than one after memory ran out
    skipped: int = 0  # batches left out since their loss was not finite
    class_ap: list[float] = field(default_factory=list)  # of the last validation, by class
    meter: LossMeter = field(default_factory=LossMeter)  # of the epoch in work

    def share_statistics(self) -> None:
        """Let all processes have the same running statistics, before these are evaluated or saved."""
        for model in (self.model, self.ema.model):
            self.group.share_statistics(model)


def weights_of(run: Training) -> dict[str, Any]:
    """The averaged weights, with what is needed to use them."""
    model = run.ema.model
    return {"config": model.config, "names": list(model.names), "model": model.state_dict(), "epoch": run.epoch}


def save_run(run: Training, settings: dict[str, Any], folder: Path) -> None:
    """Write weights/last.pt, from which the run goes on; the one before it becomes weights/previous.pt."""
    generators = {"torch": torch.get_rng_state(), "python": _plain(random.getstate()), "numpy": _numpy_state()}
    if run.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(run.device)
    state = {"args": settings, "recipe": vars(run.recipe), "job": job_id(), "ema_updates": run.ema.updates,
             "meter": run.meter.state(), "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
             "scaler": run.scaler.state_dict(), "rng": generators, **{name: getattr(run, name) for name in COUNTERS}}
    weights = folder / "weights"
    save_checkpoint({**weights_of(run), "train": state}, weights / "last.pt", keep=weights / "previous.pt")


def end_run(folder: Path) -> None:
    """Reduce weights/last.pt of a run that has ended to its weights; there is nothing to go on from any more."""
    weights = folder / "weights"
    last = load_checkpoint(weights / "last.pt")
    if not has_ended(last):
        last["job"] = last.pop("train").get("job", "")  # should another process fail now, nothing is left to do
        save_checkpoint(last, weights / "last.pt")
    (weights / "previous.pt").unlink(missing_ok=True)


def restore_run(run: Training, stored: dict[str, Any]) -> None:
    """Put a run back to where its checkpoint was written."""
    state = stored["train"]
    if "meter" not in state:
        raise UserError("--resume: this checkpoint is of an earlier version, which saved less of a run; start a new "
                        "one from it with --weights")
    run.model.load_state_dict(state["model"])
    run.ema.load_state_dict({"model": stored["model"], "updates": state["ema_updates"]})
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    for name in COUNTERS:
        setattr(run, name, state[name])
    run.meter = LossMeter.of(state["meter"])
    generators = state["rng"]
    torch.set_rng_state(generators["torch"])
    random.setstate(_tuples(generators["python"]))
    kind, keys, *rest = generators["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002  what plugins may draw from
    if run.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], run.device)
    print(f"resuming after epoch {run.epoch}" + (f" and {run.batch} batches" if run.batch else ""))


def job_id() -> str:
    """What stays the same when torchrun starts the processes of a job anew; '' without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # without --rdzv-id every job is called "none": then the agent on this machine tells them apart
    return f"{socket.gethostname()}-{os.getppid()}" if name == "none" else name


def find_run(resume: str | bool, project: str) -> tuple[Path | None, dict[str, Any] | None]:
    """What to go on from, (None, None) for a new run: what `--resume` names, and after an elastic restart the run of
    this job, where it had come to a checkpoint; that may be the last one, of a run that has ended (`has_ended`)."""
    if resume:
        return open_run(resume, project)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0):
        for path in _newest_first(project):
            try:
                path, content = _open_one(path)
            except UserError as error:  # of another run perhaps: no reason not to look for ours
                print(error)
                continue
            if content.get("train", content).get("job") == job_id():
                return path, content
    return None, None


def has_ended(stored: dict[str, Any] | None) -> bool:
    """Whether a checkpoint is the last one of its run, which nothing can be resumed from."""
    return stored is not None and "train" not in stored


def open_run(resume: str | bool, project: str) -> tuple[Path, dict[str, Any]]:
    """(path, content) of the checkpoint to go on from: the one named, that of the folder named, or under `project` that
    of the newest run that has not ended.

    Where last.pt is damaged, the one before it is taken, and that is told.
    """
    if isinstance(resume, str):
        path = Path(resume)
        return _open_one(path / "weights" / "last.pt" if path.is_dir() else path)
    found = _newest_first(project)
    for path in found:
        path, content = _open_one(path)
        if not has_ended(content):
            return path, content
    what = "every run there has ended" if found else "there is no */weights/last.pt"
    raise UserError(f"--resume: nothing to resume under {project}, {what}; name one: --resume path/to/last.pt")


def _newest_first(project: str) -> list[Path]:
    """last.pt of every run under `project`, be it there or only the one before it."""
    found = {path.with_name("last.pt") for name in ("last", "previous")
             for path in Path(project).glob(f"*/weights/{name}.pt")}
    return sorted(found, key=_age, reverse=True)


def _age(path: Path) -> float:
    return max(p.stat().st_mtime for p in (path, path.with_name("previous.pt")) if p.is_file())


def _open_one(path: Path) -> tuple[Path, dict[str, Any]]:
    previous = path.with_name("previous.pt")
    try:
        return path, load_checkpoint(path)
    except UserError as error:
        if path.name != "last.pt" or not previous.is_file():
            raise
        content = load_checkpoint(previous)
        print(f"{error}\ngoing on from the checkpoint before it, {previous}")
        return previous, content


def _numpy_state() -> list[Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [kind, keys.tolist(), *rest]


def _plain(state: Any) -> Any:
    return [_plain(part) for part in state] if isinstance(state, tuple) else state


def _tuples(state: Any) -> Any:
    return tuple(_tuples(part) for part in state) if isinstance(state, list) else state


def judge(run: Training, row: dict[str, float], word: str = "fitness") -> bool:
    """Whether this epoch's validation, where there was one, is the best so far by `--save-best-by`; remembers it."""
    if "metrics/AP" not in row:
        return False
    if word == "fitness":
        score = 0.1 * row["metrics/AP50"] + 0.9 * row["metrics/AP"]  # as in YOLOv5
    elif word == "F1":
        p, r = row["metrics/precision"], row["metrics/recall"]
        score = 2 * p * r / max(p + r, 1e-9)
    else:
        score = row[f"metrics/{word}"]
    run.score = score
    if score > run.best:
        run.best, run.best_epoch = score, run.epoch
        return True
    return False


def is_tired(args: argparse.Namespace, run: Training, row: dict[str, float]) -> bool:
    """Whether `--patience` is at its end; only an epoch that was validated can say so."""
    waited = run.epoch - run.best_epoch
    return bool("metrics/AP" in row and args.patience and run.best_epoch and waited >= args.patience)


def epoch_row(run: Training) -> dict[str, float]:
    """The epoch's row for the log, over the images of all processes."""
    means, speed = run.meter.means(), run.meter.images_per_second()
    counted = torch.tensor([run.meter.images, speed, *(mean * run.meter.images for mean in means.values())],
                           dtype=torch.float64)
    images, speed, *sums = run.group.sum(counted).tolist()
    return {**{f"train/{name}": value / max(images, 1) for name, value in zip(means, sums, strict=True)},
            "images_per_s": speed, "memory_gb": memory_gb(run.device)}
