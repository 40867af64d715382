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
from torch import Tensor, nn

from engine.optim.ema import ModelEMA
from engine.optim.optimizer import Schedule
from engine.training.recipe import Recipe
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.device import memory_gb
from utils.distributed.group import Group
from utils.errors import UserError, printable, shown
from utils.reporting.run_log import LossMeter

COUNTERS = ("epoch", "batch", "score", "best", "best_epoch", "ended", "split", "split_left", "split_wait", "skipped",
            "left_out", "class_ap")
IMPLEMENTATION = ("fused", "foreach", "capturable")  # how an optimiser computes, which its device decides
NO_GROWTH = 2**31 - 1  # growth interval of a scaler whose scale stays 1


@dataclass(frozen=True)
class Unread:
    """Losses of a step that were not read yet: names and sums (K,) of its terms, images, which batch of the epoch it
    was, and the side that its images were resized to (0: they were not)."""

    names: list[str]
    values: Tensor
    images: int
    batch: int
    size: int


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
    split_left: int = 0  # batches until larger parts are tried again
    split_wait: int = 0  # how many those were at first
    skipped: int = 0  # batches left out since their loss was not finite
    left_out: int = 0  # steps that the scaler left out, since gradients were not finite though the loss was
    read_every: int = 1  # steps between two readings of the losses: each one waits for the device
    data: dict[str, dict] = field(default_factory=dict)  # split -> its `fingerprint`
    unread: list[Unread] = field(default_factory=list)
    unread_skips: list[Tensor] = field(default_factory=list)  # of each step 1 where it was left out, else 0
    class_ap: list[float] = field(default_factory=list)  # of the last validation, by class
    meter: LossMeter = field(default_factory=LossMeter)  # of the epoch in work

    def count_left_out(self) -> int:
        """Read how many steps the scaler has left out since the last reading, and count them."""
        found = int((torch.stack(self.unread_skips) > 0).sum()) if self.unread_skips else 0
        self.unread_skips.clear()
        self.left_out += found
        return found

    def is_finite(self) -> bool:
        """Whether all weights and running statistics, the averaged ones too, are finite; one wait for the device."""
        tensors = [t for model in (self.model, self.ema.model) for t in model.state_dict().values()
                   if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

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
             "scaler": run.scaler.state_dict() if run.amp == torch.float16 else {}, "rng": generators, "data": run.data,
             **{name: getattr(run, name) for name in COUNTERS}}
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


def restore_run(run: Training, stored: dict[str, Any], whole_epoch: bool = False) -> None:
    """Put a run back to where its checkpoint was written; whole_epoch: to the beginning of that epoch, since its
    batches are others now. Raises `UserError` for a state that is damaged or of an earlier version."""
    if isinstance(stored["train"], dict) and "meter" not in stored["train"]:
        raise UserError("--resume: this checkpoint is of an earlier version, which saved less of a run; start a new "
                        "one from it with --weights")
    try:
        _restore(run, stored, whole_epoch)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        text = printable((str(error).strip().splitlines() or [""])[-1].strip())[:150]
        raise UserError(f"--resume: the state of training in this checkpoint is damaged ({type(error).__name__}: "
                        f"{text}); go on from an older one, such as previous.pt, or start a new run with --weights"
                        ) from error
    print(f"resuming after epoch {run.epoch}" + (f" and {run.batch} batches" if run.batch else ""))


def _restore(run: Training, stored: dict[str, Any], whole_epoch: bool) -> None:
    state = stored["train"]
    run.model.load_state_dict(state["model"])
    run.ema.load_state_dict({"model": stored["model"], "updates": state["ema_updates"]})
    _restore_optimizer(run.optimizer, state["optimizer"])
    scale = state["scaler"]
    if run.amp == torch.float16 and scale and scale["growth_interval"] != NO_GROWTH:  # else it begins anew
        run.scaler.load_state_dict(scale)
    for name in COUNTERS:
        own = getattr(run, name)
        value = state.get(name, own)  # earlier versions counted less
        fits = isinstance(value, int | float) if isinstance(own, float) else type(value) is type(own)
        if not fits or type(own) is int and value < 0:
            raise ValueError(f"{name} is {shown(value, 40)}")
        setattr(run, name, value)
    run.meter = LossMeter.of(state["meter"])
    if whole_epoch and run.batch:
        run.batch, run.meter = 0, LossMeter()
    generators = state["rng"]
    torch.set_rng_state(generators["torch"])
    random.setstate(_tuples(generators["python"]))
    kind, keys, *rest = generators["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002  what plugins may draw from
    if run.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], run.device)


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what an optimiser knew, perhaps on another device: how it computes is for this one to say, and must be said
    before, since its counters are put where that kind of optimiser wants them."""
    groups = [{**stored, **{word: own[word] for word in IMPLEMENTATION if word in own}}
              for stored, own in zip(state["param_groups"], optimizer.param_groups, strict=True)]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in state["state"].items():
        for word, value in entry.items():
            number = word == "step" and isinstance(value, int | float | Tensor)
            if value is not None and not number and getattr(value, "shape", None) != params[index].shape:
                raise ValueError(f"{word} of parameter {index} is no tensor of the shape {list(params[index].shape)}")
    optimizer.load_state_dict({**state, "param_groups": groups})


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


def left_out_words(run: Training) -> str:
    """How many steps the scaler has left out, as a line for the log."""
    why = "fp16 finds its loss scale by that" if run.amp == torch.float16 else "lower the learning rate if they go on"
    return f"    steps left out since their gradients were not finite: {run.left_out} of {run.ema.updates} ({why})"


def epoch_row(run: Training) -> dict[str, float]:
    """The epoch's row for the log, over the images of all processes."""
    means, speed = run.meter.means(), run.meter.images_per_second()
    counted = torch.tensor([run.meter.images, speed, *(mean * run.meter.images for mean in means.values())],
                           dtype=torch.float64)
    images, speed, *sums = run.group.sum(counted).tolist()
    return {**{f"train/{name}": value / max(images, 1) for name, value in zip(means, sums, strict=True)},
            "images_per_s": speed, "memory_gb": memory_gb(run.device)}
