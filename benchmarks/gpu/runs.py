"""Small whole trainings by train.py in this process: reading of losses, equal runs, resuming."""

import contextlib
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import train
from benchmarks.gpu.context import Context
from benchmarks.gpu.goldens import exact_fp32
from engine.training.state import Training
from tests.tiny import tiny_data
from utils.checkpoint import load_checkpoint
from utils.device import seed_everything
from utils.distributed.launch import join
from utils.reporting.run_log import read_csv

SIZE, SIZE_SMALL = (192, 16, 3), (8, 4, 2)  # images, batch, epochs
RUNTIME_COLUMNS = ("time", "images_per_s", "memory_gb")  # columns of results.csv
_ALONE: dict[Path, Path] = {}
NEAR = 0.1  # relative difference of the last loss after some steps on another device, in another precision


@contextlib.contextmanager
def deterministic() -> Iterator[list[str]]:
    """train.py as it would be with deterministic algorithms everywhere; gives the list of those that there are not."""
    missing: list[str] = []

    def seed(number: int, device: torch.device) -> None:
        seed_everything(number, device)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, train.seed_everything = torch.backends.cudnn.benchmark, seed
    try:
        with warnings.catch_warnings(record=True) as caught, exact_fp32():
            warnings.simplefilter("always")
            yield missing
        missing += sorted({str(w.message).split(" does not")[0] for w in caught
                           if "deterministic implementation" in str(w.message)})
    finally:
        train.seed_everything = seed_everything
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def run_training(context: Context, name: str, device: torch.device, *extra: object,
                 told: Callable[[float, int], None] = lambda fitness, epoch: None) -> Path:
    """A small training, from its start or (`--resume`) from where it was; its folder, also where it was stopped."""
    place = context.work / "runs"
    place.mkdir(parents=True, exist_ok=True)
    images, batch, epochs = SIZE_SMALL if context.small else SIZE
    tiny_data(place, images, 4, size=64)
    here = ["--device", "cpu" if device.type == "cpu" else str(device.index or 0), "--workers", 0]
    start = ["--data", place / "tiny.yaml", "--cfg", "yolov8n", "--imgsz", 64, "--epochs", epochs, "--batch", batch,
             "--optimizer", "SGD", "--close-mosaic", 1, "--noplots", "--project", place, "--name", name, "--exist-ok"]
    flags = [*extra, *here] if "--resume" in extra else [*start, *here, *extra]
    if "--resume" not in extra:
        shutil.rmtree(place / name, ignore_errors=True)
    args = train.build_parser().parse_args([str(word) for word in flags])
    config = train.TrainConfig.from_args(args)
    group, chosen = join(config.device)
    with group.session(), contextlib.suppress(SystemExit):
        train.train(config, group, chosen, None, told)
    return place / name


def alone(context: Context) -> Path:
    """The training on the device that others are compared with: in fp32, once in the life of this process."""
    if context.work not in _ALONE:
        _ALONE[context.work] = run_training(context, "alone", context.device, "--amp", "fp32")
    return _ALONE[context.work]


def end_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in last.pt of a run that has ended."""
    stored = load_checkpoint(folder / "weights" / "last.pt")
    if "train" in stored:
        raise RuntimeError(f"{folder.name}: it has not come to its end")
    return stored["model"]


def distance(a: Path, b: Path) -> float:
    """The largest difference between the weights of two runs."""
    ours, theirs = end_of(a), end_of(b)
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours if ours[k].numel())


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in RUNTIME_COLUMNS} for row in read_csv(folder / "results.csv")]


def last_loss(folder: Path) -> float:
    return sum(float(v) for k, v in read_csv(folder / "results.csv")[-1].items() if k.startswith("train/"))


def measure_deterministic(context: Context) -> None:
    """The same training twice with deterministic algorithms, in fp32: the same weights and rows, to the last bit."""
    with deterministic() as missing:
        one, two = alone(context), run_training(context, "again", context.device, "--amp", "fp32")
    note = f"without a deterministic form: {'; '.join(missing)}"[:300] if missing else ""
    context.check("largest difference of a weight", distance(one, two), 0.0, note)
    context.fact("results.csv is the same", rows_of(one) == rows_of(two))


def measure_reading(context: Context) -> None:
    """Losses read every 10 steps, as on a GPU, are those of reading every step."""
    make, every = train.make_training, 1 if context.cuda else 10

    def made(*args, **kwargs) -> Training:
        run = make(*args, **kwargs)
        run.read_every = every
        return run

    with deterministic():
        usual = alone(context)
        try:
            train.make_training = made
            other = run_training(context, f"read-every-{every}", context.device, "--amp", "fp32")
        finally:
            train.make_training = make
    context.check("largest difference of a weight", distance(usual, other), 0.0)
    pairs = zip(rows_of(usual), rows_of(other), strict=True)
    error = max(abs(float(a[k]) - float(b[k])) / max(abs(float(a[k])), 1e-9) for a, b in pairs for k in a if a[k])
    context.check("largest relative difference in results.csv", error, 1e-6)


def measure_resume(context: Context, first: str, second: str) -> None:
    """A training that is stopped on one device and goes on on another, beside one that was left alone."""
    devices = [torch.device("cpu") if name == "cpu" else context.device for name in (first, second)]
    same = devices[0] == devices[1]
    precision = ("--amp", "fp32") if same else ()  # else as each device has it

    def stop(fitness: float, epoch: int) -> None:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with deterministic():
        whole = alone(context)
        part = run_training(context, f"{first}-{second}", devices[0], *precision, told=stop)
        stored = load_checkpoint(part / "weights" / "last.pt")
        context.fact(f"stopped on {devices[0]} in epoch 2", "train" in stored)
        run_training(context, part.name, devices[1], "--resume", part / "weights" / "last.pt")
    context.fact(f"went on to its end on {devices[1]}", len(rows_of(part)) == len(rows_of(whole)))
    if same:
        context.check("largest difference of a weight from the run left alone", distance(part, whole), 0.0)
    error = abs(last_loss(part) / last_loss(whole) - 1)
    context.check("relative difference of the last loss", error, 0.0 if same else NEAR)
