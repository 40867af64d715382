"""The checkpoints of a run: find, read, save, restore, and end.

weights/last.pt holds the training state beside the averaged weights; previous.pt is the last.pt before it. best.pt and
epochN.pt hold averaged weights only, and so does last.pt of a run that has ended.
"""

import os
import random
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.training.nonfinite import check_finite
from engine.training.resume import stored_settings
from engine.training.state import NO_GROWTH, Job, Training
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, printable, shown
from utils.reporting.run_log import LossMeter

# Counters of `Training`, by their key in a checkpoint.
COUNTERS = {"split": "micro_batches", "split_left": "retry_in", "split_wait": "retry_wait",
            "skipped": "skipped_batches", "left_out": "skipped_steps",
            **{name: name for name in ("epoch", "batch", "score", "best", "best_epoch", "ended", "class_ap")}}
IMPLEMENTATION = ("fused", "foreach", "capturable")  # how an optimiser computes, which its device decides


def job_id() -> str:
    """An identifier that stays the same when torchrun restarts the processes of a job; '' without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # without --rdzv-id every job is called "none": then the agent on this machine tells them apart
    return f"{socket.gethostname()}-{os.getppid()}" if name == "none" else name


def find_run(resume: str | bool, project: str) -> tuple[Path | None, dict[str, Any] | None]:
    """(path, content) of the checkpoint to continue from, (None, None) for a new run: the one that `--resume` names, or
    after an elastic restart that of this job, if it has saved one; it may be of a run that has ended (`has_ended`)."""
    if resume:
        return open_run(resume, project)
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0):
        for path in _newest_first(project):
            try:
                path, content = _open_one(path)
            except UserError as error:  # perhaps of another run: search on
                print(error)
                continue
            if content.get("train", content).get("job") == job_id():
                return path, content
    return None, None


def has_ended(stored: dict[str, Any] | None) -> bool:
    """Whether a checkpoint is the last one of a run that has ended, which cannot be resumed."""
    return stored is not None and "train" not in stored


def open_run(resume: str | bool, project: str) -> tuple[Path, dict[str, Any]]:
    """(path, content) of the checkpoint to continue from: the file or folder named, or under `project` the newest run
    that has not ended. Falls back to previous.pt, with a note, where last.pt is damaged."""
    if isinstance(resume, str):
        path = Path(resume)
        return _open_one(path / "weights" / "last.pt" if path.is_dir() else path)
    found = _newest_first(project)
    for path in found:
        path, content = _open_one(path)
        if not has_ended(content):
            return path, content
    what = "every run there has ended" if found else "there is no */weights/last.pt"
    raise UserError(f"--resume: nothing to resume under {project}, {what}; name one: --resume path/to/last.pt",
                    "nothing-to-resume")


def _newest_first(project: str) -> list[Path]:
    """last.pt of every run under `project`, also where only its previous.pt exists."""
    found = {path.with_name("last.pt") for name in ("last", "previous")
             for path in Path(project).glob(f"*/weights/{name}.pt")}
    return sorted(found, key=_modified, reverse=True)


def _modified(path: Path) -> float:
    return max(p.stat().st_mtime for p in (path, path.with_name("previous.pt")) if p.is_file())


def _open_one(path: Path) -> tuple[Path, dict[str, Any]]:
    previous = path.with_name("previous.pt")
    try:
        return path, load_checkpoint(path)
    except UserError as error:
        if path.name != "last.pt" or not previous.is_file():
            raise
        content = load_checkpoint(previous)
        print(f"{error}\ncontinuing from the checkpoint before it, {previous}")
        return previous, content


def save_checkpoints(job: Job, run: Training, best: bool) -> None:
    """In the main process write last.pt, best.pt if these weights are the best, and the copy of `--save-period`."""
    if not run.group.is_main:
        return
    check_finite(run, job.folder)
    weights, period = job.folder / "weights", job.config.save_period
    if best:
        save_checkpoint(ema_checkpoint(run), weights / "best.pt")
    save_run(run, stored_settings(job.config), job.folder)
    if period > 0 and run.batch == 0 and run.epoch % period == 0:
        save_checkpoint(ema_checkpoint(run), weights / f"epoch{run.epoch}.pt")


def ema_checkpoint(run: Training) -> dict[str, Any]:
    """The averaged weights, with what is needed to use them."""
    model = run.ema.model
    return {"config": model.config, "names": list(model.names), "model": model.state_dict(), "epoch": run.epoch}


def save_run(run: Training, settings: dict[str, Any], folder: Path) -> None:
    """Write weights/last.pt, from which the run can be resumed; the one before it becomes weights/previous.pt."""
    generators = {"torch": torch.get_rng_state(), "python": _lists(random.getstate()), "numpy": _numpy_state()}
    if run.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(run.device)
    state = {"args": settings, "recipe": vars(run.recipe), "job": job_id(), "ema_updates": run.ema.updates,
             "meter": run.meter.state(), "model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(),
             "scaler": run.scaler.state_dict() if run.amp == torch.float16 else {}, "rng": generators, "data": run.data,
             **{key: getattr(run, name) for key, name in COUNTERS.items()}}
    weights = folder / "weights"
    save_checkpoint({**ema_checkpoint(run), "train": state}, weights / "last.pt", keep=weights / "previous.pt")


def restore_run(run: Training, stored: dict[str, Any], whole_epoch: bool = False) -> None:
    """Put a run into the state that its checkpoint holds; whole_epoch: at the beginning of that epoch, because its
    batches have changed. Raises `UserError` for a state that is damaged or of an earlier version."""
    if isinstance(stored["train"], dict) and "meter" not in stored["train"]:
        raise UserError("--resume: this checkpoint is of an earlier version, which saved less of a run; start a new "
                        "one from it with --weights", "old-checkpoint")
    try:
        _restore(run, stored, whole_epoch)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        text = printable((str(error).strip().splitlines() or [""])[-1].strip())[:150]
        raise UserError(f"--resume: the training state in this checkpoint is damaged ({type(error).__name__}: "
                        f"{text}); resume from an older one, such as previous.pt, or start a new run with --weights",
                        "corrupt-checkpoint") from error
    print(f"resuming after epoch {run.epoch}" + (f" and {run.batch} batches" if run.batch else ""))


def _restore(run: Training, stored: dict[str, Any], whole_epoch: bool) -> None:
    state = stored["train"]
    run.model.load_state_dict(state["model"])
    run.ema.load_state_dict({"model": stored["model"], "updates": state["ema_updates"]})
    _restore_optimizer(run.optimizer, state["optimizer"])
    scale = state["scaler"]
    if run.amp == torch.float16 and scale and scale["growth_interval"] != NO_GROWTH:  # else it starts anew
        run.scaler.load_state_dict(scale)
    for key, name in COUNTERS.items():
        default = getattr(run, name)
        value = state.get(key, default)  # earlier versions counted less
        fits = isinstance(value, int | float) if isinstance(default, float) else type(value) is type(default)
        if not fits or type(default) is int and value < 0:
            raise ValueError(f"{key} is {shown(value, 40)}")
        setattr(run, name, value)
    run.meter = LossMeter.of(state["meter"])
    if whole_epoch and run.batch:
        run.batch, run.meter = 0, LossMeter()
    generators = state["rng"]
    torch.set_rng_state(generators["torch"])
    random.setstate(_tuples(generators["python"]))
    kind, keys, *rest = generators["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002  plugins may draw from it
    if run.device.type == "cuda" and "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], run.device)


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, perhaps saved on another device. How it computes is kept as it is here, and set before
    loading, since that decides where its step counters are placed."""
    groups = [{**stored, **{key: own[key] for key in IMPLEMENTATION if key in own}}
              for stored, own in zip(state["param_groups"], optimizer.param_groups, strict=True)]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in state["state"].items():
        for key, value in entry.items():
            number = key == "step" and isinstance(value, int | float | Tensor)
            if value is not None and not number and getattr(value, "shape", None) != params[index].shape:
                raise ValueError(f"{key} of parameter {index} is no tensor of the shape {list(params[index].shape)}")
    optimizer.load_state_dict({**state, "param_groups": groups})


def end_run(folder: Path) -> None:
    """Reduce weights/last.pt of a run that has ended to its weights; it cannot be resumed any more."""
    weights = folder / "weights"
    last = load_checkpoint(weights / "last.pt")
    if not has_ended(last):
        last["job"] = last.pop("train").get("job", "")  # tells an elastic restart that nothing is left to do
        save_checkpoint(last, weights / "last.pt")
    (weights / "previous.pt").unlink(missing_ok=True)


def _numpy_state() -> list[Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [kind, keys.tolist(), *rest]


def _lists(state: Any) -> Any:
    return [_lists(part) for part in state] if isinstance(state, tuple) else state


def _tuples(state: Any) -> Any:
    return tuple(_tuples(part) for part in state) if isinstance(state, list) else state
