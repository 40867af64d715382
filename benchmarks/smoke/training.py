"""Whole trainings by train.py, several side by side, stopped when the time is up and resumed by the next call."""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

import val
from benchmarks.smoke.results import PROJECT, Piece, Section, last_line
from data import load_index
from data.loader import eval_loader
from models import load_model
from utils.checkpoint import load_checkpoint
from utils.config import find_config, read_yaml
from utils.errors import UserError
from utils.report import read_csv

MODELS = ("yolov8n", "yolov8n --neck ssfpn", "yolov8n-assn")
GRACE = 15.0  # seconds that a training has to end after it was asked to
POLL = 0.2


@dataclass(frozen=True)
class Scale:
    """How much is trained, and the split that the results are told of."""

    epochs: int
    imgsz: int
    batch: int
    seeds: tuple[int, ...]
    val_interval: int
    split: str = "test"


FULL = Scale(epochs=100, imgsz=640, batch=16, seeds=(0, 1, 2), val_interval=5)
SMALL = Scale(epochs=1, imgsz=64, batch=8, seeds=(0,), val_interval=1)


@dataclass(frozen=True)
class Run:
    """One training: model in words of train.py, seed, and where it lives."""

    model: str
    seed: int
    scale: Scale
    data: str
    work: Path

    @property
    def key(self) -> str:
        return f"{self.model} seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.work / "train" / f"{self.model.replace(' --neck ', '-')}-seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def command(self, device: torch.device, workers: int) -> list[str] | None:
        """What starts or continues this training; None where it has ended."""
        here = ["--device", str(device.index or 0) if device.type == "cuda" else "cpu", "--workers", str(workers),
                "--cache", "ram"]
        last = self.folder / "weights" / "last.pt"
        if last.is_file():  # train.py takes its state out of last.pt when it has ended
            return ["train.py", "--resume", str(last), *here] if "train" in load_checkpoint(last) else None
        s = self.scale
        return ["train.py", "--cfg", *self.model.split(), "--data", self.data, "--imgsz", str(s.imgsz),
                "--epochs", str(s.epochs), "--batch-size", str(s.batch), "--seed", str(self.seed), "--val-interval",
                str(s.val_interval), "--patience", "0", "--noplots", "--project", str(self.folder.parent),
                "--name", self.folder.name, "--exist-ok", *here]


def plan(scale: Scale, data: str, work: Path) -> list[Run]:
    """All trainings, seed by seed, so that an unfinished table already compares the models."""
    return [Run(model, seed, scale, data, work.resolve()) for seed in scale.seeds for model in MODELS]


def find_data(given: str, small: bool, shared: Path, work: Path) -> str:
    """The --data of the trainings: as given, else BCCD as it lies in `shared`, else (small) a few built-in shapes."""
    if given:
        return given
    work.mkdir(parents=True, exist_ok=True)
    if small:
        content: dict[str, Any] = {"format": "shapes", "path": str(work.resolve() / "shapes"), "size": 96,
                                   "train": 16, "val": 8, "test": 8}
    else:
        content = read_yaml(find_config("bccd", "data"))
        content["path"] = str((shared / "data" / "bccd").resolve())
        if not Path(content["path"]).is_dir():
            raise UserError(f"{content['path']}: BCCD is not there; name the folder that holds data/bccd: "
                            "--shared PATH, or train on something else: --data NAME")
    path = work / f"{'shapes-small' if small else 'bccd'}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    if small:
        for split in ("train", "val", "test"):
            load_index(path, split)  # drawn once, here, and not by each of the trainings at the same time
    return str(path.resolve())


def measure(runs: Sequence[Run], section: Section, device: torch.device, deadline: float, jobs: int,
            workers: int) -> list[str]:
    """Train and evaluate what `section` lacks, `jobs` at a time, until `deadline` by time.monotonic.

    Returns a sentence for each training that failed; the next call tries it again.
    """
    waiting = [run for run in runs if run.key not in section.pieces]
    failed: list[str] = []
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
                if code:
                    why = last_line(run.log.read_text(encoding="utf-8", errors="replace"))
                    failed.append(f"{run.key}: train.py ended with code {code}: {why} ({run.log})")
                    print(failed[-1])
                else:
                    piece = _evaluated(run, device, workers, jobs)
                    section.add(run.key, piece, float(_seconds(run)))
                    print(f"{run.key}: AP {piece['test']['AP']:.3f}, {piece['images_per_s']:.0f} images/s")
            time.sleep(POLL)
    finally:
        stop([process for process in going.values() if process])
    return failed


def _start(run: Run, device: torch.device, workers: int) -> subprocess.Popen | None:
    """train.py as a process; None where this training has ended before."""
    words = run.command(device, workers)
    if words is None:
        return None
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"{run.key}: python {shlex.join(words)}")
    with run.log.open("a", encoding="utf-8") as log:
        log.write(f"\n$ python {shlex.join(words)}\n")
        log.flush()
        # No session of its own: whoever ends this program and its group, ends its trainings with it.
        return subprocess.Popen([sys.executable, *words], cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL)


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """End trainings by an interrupt, or by force where they do not listen; their workers end when they miss them.

    Each loses the epoch it is in and nothing else: checkpoints are whole and written after every epoch.
    """
    until = time.monotonic() + GRACE / 2
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _evaluated(run: Run, device: torch.device, workers: int, jobs: int) -> Piece:
    """The twelve numbers of best.pt on val and on the split told of, speed and memory of its training."""
    model = load_model(run.folder / "weights" / "best.pt", device).fuse().to(memory_format=torch.channels_last)
    s, numbers = run.scale, {}
    for split in ("val", s.split):
        index = load_index(run.data, split)
        loader = eval_loader(index, s.imgsz, 2 * s.batch, workers=workers)
        result = val.evaluate(lambda images, _: (*model.decode(model(images)), {}), model.select, loader, index,
                              device=device, progress=False)
        numbers[split] = result.metrics.numbers()
    rows = read_csv(run.folder / "results.csv")
    return {"model": run.model, "seed": run.seed, "data": Path(run.data).stem, "epochs": s.epochs, "imgsz": s.imgsz,
            "batch": s.batch, "split": s.split, "jobs": jobs, "workers": workers, "train_command": _commands(run),
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
