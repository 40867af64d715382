"""Accuracy of the necks on small objects: whole trainings by train.py, several in parallel on one device.

They are stopped when the time is up, and resumed by the next call.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
import yaml

from benchmarks.processes import stop
from benchmarks.record import PROJECT, Piece, Section, last_line, write_whole
from data import load_index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.evaluate import evaluate
from models import load_model
from utils.checkpoint import load_checkpoint
from utils.config import read_yaml
from utils.errors import UserError
from utils.reporting.run_log import read_csv

VARIANTS = ("yolov8n", "yolov8n --neck ssfpn", "yolov8n --neck assn", "yolov8n --neck assn --box-loss sca")
GRACE = 15.0  # seconds that a training has to end after it was asked to
POLL = 0.2


@dataclass(frozen=True)
class Scale:
    """One data set, and how much is trained on it. split: that the results are told of."""

    data: str
    epochs: int
    imgsz: int
    batch: int
    seeds: tuple[int, ...]
    val_interval: int
    cache: str = "gpu"
    split: str = "test"


# 850 scans of circuit boards, nearly all of whose defects are small at 320 px; 800 drawn scenes, four in ten small
FULL = (Scale("deeppcb", epochs=30, imgsz=320, batch=32, seeds=(0, 1, 2), val_interval=10),
        Scale("shapes", epochs=20, imgsz=320, batch=32, seeds=(0, 1, 2), val_interval=10))
SMALL = (Scale("shapes", epochs=1, imgsz=64, batch=8, seeds=(0,), val_interval=1),)
SHAPES = {"size": 320, "train": 800, "val": 100, "test": 200}
SHAPES_SMALL = {"size": 96, "train": 16, "val": 8, "test": 8}


@dataclass(frozen=True)
class Run:
    """One training: model flags, seed, how much of which data, its YAML ('' where it is not here), and
    where it lives."""

    model: str
    seed: int
    scale: Scale
    data: str
    work: Path

    @property
    def key(self) -> str:
        return f"{self.scale.data} {self.model} seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.work / "train" / self.key.replace(" --neck ", "-").replace(" --", "-").replace(" ", "-")

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def command(self, device: torch.device, workers: int) -> list[str] | None:
        """What starts or continues this training; None where it has ended."""
        here = ["--device", str(device.index or 0) if device.type == "cuda" else "cpu", "--workers", str(workers),
                "--cache", self.scale.cache]
        last = self.folder / "weights" / "last.pt"
        if last.is_file():  # train.py takes its state out of last.pt when it has ended
            return ["train.py", "--resume", str(last), *here] if "train" in load_checkpoint(last) else None
        s = self.scale
        return ["train.py", "--cfg", *self.model.split(), "--data", self.data, "--imgsz", str(s.imgsz),
                "--epochs", str(s.epochs), "--batch-size", str(s.batch), "--seed", str(self.seed), "--val-interval",
                str(s.val_interval), "--patience", "0", "--noplots", "--project", str(self.folder.parent),
                "--name", self.folder.name, "--exist-ok", *here]


def plan(small: bool, epochs: int | None, shared: Path, work: Path, write: bool = True) -> list[Run]:
    """All trainings, data set by data set and seed by seed, so that an unfinished table already compares the models.
    epochs: instead of each scale's own; write: the files that name the data, into `work`."""
    runs = []
    for scale in SMALL if small else FULL:
        scale = replace(scale, epochs=epochs or scale.epochs)
        data = describe_data(scale.data, small, shared, work, write)
        runs += [Run(model, seed, scale, data, work.resolve()) for seed in scale.seeds
                 for model in (VARIANTS[::3] if small else VARIANTS)]
    return runs


def describe_data(name: str, small: bool, shared: Path, work: Path, write: bool) -> str:
    """The YAML of a data set in `work`, written where told so; '' where its files are not here."""
    if name == "shapes":
        content = {"format": "shapes", "path": str(work.resolve() / "shapes"), "seed": 0,
                   **(SHAPES_SMALL if small else SHAPES)}
    else:
        source = (shared / "data" / name / f"{name}.yaml").resolve()
        if not source.is_file():
            return ""
        content = {"path": str(source.parent), **read_yaml(source)}
    path = work / f"{name}.yaml"
    if write:
        write_whole(path, yaml.safe_dump(content, sort_keys=False))
    return str(path.resolve())


def measure(runs: Sequence[Run], section: Section, device: torch.device, deadline: float, jobs: int,
            workers: int) -> list[str]:
    """Train and evaluate, `jobs` at a time, until `deadline` by time.monotonic; what is under way then goes on when the
    same is asked for again. Returns a sentence for each training that failed."""
    waiting, failed = list(runs), []
    going: dict[Run, subprocess.Popen | None] = {}
    try:
        while (waiting or going) and time.monotonic() < deadline - GRACE:
            while waiting and len(going) < jobs:
                run = waiting.pop(0)
                going[run] = _start(run, device, workers)
            for run, process in list(going.items()):
                code = 0 if process is None else process.poll()
                if code is None:
                    continue
                del going[run]
                error = _write_down(run, code, section, device, workers, jobs)
                if error:
                    failed.append(f"{run.key}: {error}")
            time.sleep(POLL)
    finally:
        stop([process for process in going.values() if process], GRACE / 2)
    return failed


def _write_down(run: Run, code: int, section: Section, device: torch.device, workers: int, jobs: int) -> str:
    """The result of a training that has ended, or why there is none: '' where all is well."""
    error = ""
    if code:
        why = last_line(run.log.read_text(encoding="utf-8", errors="replace"))
        error = f"train.py ended with code {code}: {why} ({run.log})"
    else:
        try:
            piece = _evaluated(run, device, workers, jobs)
        except (RuntimeError, ValueError, OSError, UserError) as problem:
            error = f"could not be evaluated: {last_line(str(problem))}"
    if error:
        section.add(run.key, {"section": "necks", "error": error}, 0.0)
    else:
        section.add(run.key, piece, float(_seconds(run)))
    told = error or f"AP {piece['test']['AP']:.3f}, {piece['images_per_s']:.0f} images/s"
    print(f"{run.key}: {told}")
    return error


def _start(run: Run, device: torch.device, workers: int) -> subprocess.Popen | None:
    """train.py as a process; None where this training has ended before."""
    flags = run.command(device, workers)
    if flags is None:
        return None
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"{run.key}: python {shlex.join(flags)}")
    with run.log.open("a", encoding="utf-8") as log:
        log.write(f"\n$ python {shlex.join(flags)}\n")
        log.flush()
        # No session of its own: whoever ends this program and its group, ends its trainings with it.
        return subprocess.Popen([sys.executable, *flags], cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL)


def _evaluated(run: Run, device: torch.device, workers: int, jobs: int) -> Piece:
    """The twelve numbers of best.pt on val and on the split told of, speed and memory of its training."""
    model = load_model(run.folder / "weights" / "best.pt", device).fuse().to(memory_format=torch.channels_last)
    s, numbers = run.scale, {}
    for split in ("val", s.split):
        index = load_index(run.data, split)
        loader = eval_loader(index, s.imgsz, LoaderConfig(2 * s.batch, workers=workers, rect=True, frame=model.frame))
        result = evaluate(lambda images, _: (*model.decode(model(images)), {}), model.select, loader, index,
                          model.thresholds, device=device)
        numbers[split] = result.metrics.coco_stats()
    rows = read_csv(run.folder / "results.csv")
    return {"section": "necks", "model": run.model, "seed": run.seed, "data": s.data, "epochs": s.epochs,
            "imgsz": s.imgsz, "batch": s.batch, "split": s.split, "jobs": jobs, "workers": workers,
            "train_command": _commands(run),
            "val": numbers["val"], "test": numbers[s.split],
            "images_per_s": len(load_index(run.data, "train")) / epoch_seconds(rows), "memory_gb": _memory(run.log)}


def epoch_seconds(rows: Sequence[dict[str, str]]) -> float:
    """Median seconds of the epochs in a results.csv that did not wait for a validation.

    `time` is read after an epoch's training and before its validation; it starts anew when a training is resumed.
    """
    spans = [float(row["time"]) - float(before["time"]) for before, row in zip(rows, rows[1:], strict=False)
             if not before.get("metrics/AP")]
    return median([span for span in spans if span > 0] or [float(rows[0]["time"])])


def _seconds(run: Run) -> float:
    """Seconds of training in all, over every resumption."""
    times = [float(row["time"]) for row in read_csv(run.folder / "results.csv")]
    return sum(now for now, following in zip(times, [*times[1:], 0.0], strict=True) if following < now)


def _commands(run: Run) -> list[str]:
    lines = run.log.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line[2:] for line in lines if line.startswith("$ ")]


def _memory(log: Path) -> float:
    """Peak GiB that the progress lines of train.py told; 0 where they told none."""
    told = re.findall(r"\d+/\d+  (\d+\.\d)G  ", log.read_text(encoding="utf-8", errors="replace"))
    return max(map(float, told), default=0.0)
