"""A small training that is interrupted, resumed until it ends, and compared with an uninterrupted one."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.record import PROJECT, Piece, last_line
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.reporting.run_log import read_csv

UNEQUAL_COLUMNS = ("time", "images_per_s", "memory_gb")  # of the machine, not of the training
LIMIT, POLL, TRIES = 240.0, 0.02, 6  # seconds that a training may take; between looks; tries of a moment too late
DISK_MB = 400


@dataclass(frozen=True)
class Whole:
    """An uninterrupted training: its folder, seconds until it began to train, seconds in all."""

    folder: Path
    began: float
    seconds: float


@dataclass
class Place:
    """Where the trainings of one call live, and how long they are."""

    work: Path
    data: Path
    epochs: int
    whole: dict[str, Whole] = field(default_factory=dict)

    def flags(self, optimizer: str, folder: Path, *more: str) -> list[str]:
        """The command line of train.py for a training into `folder`."""
        return ["--cfg", "yolov8n", "--data", str(self.data), "--imgsz", "64", "--batch-size", "32", "--epochs",
                str(self.epochs), "--close-mosaic", "1", "--optimizer", optimizer, "--noplots", "--device", "cpu",
                "--project", str(folder.parent), "--name", folder.name, "--exist-ok", *more]

    def log(self, trial: "Trial", name: str) -> Path:
        """Where the output of a training goes: outside its folder, which may lie on a full disk."""
        return self.work / "logs" / f"{trial.key.replace(' ', '-')}-{name}.log"


@dataclass(frozen=True)
class Trial:
    """One interruption; `draws` are eight numbers in [0, 1) that decide its moments."""

    case: str
    moment: int
    optimizer: str
    draws: tuple[float, ...]

    @property
    def key(self) -> str:
        return f"{self.case} {self.moment}"


class Training:
    """train.py as a process whose output goes to a log."""

    def __init__(self, flags: list[str], log: Path) -> None:
        # One thread: a sum split over another number of threads rounds differently.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.start = log, log.stat().st_size if log.is_file() else 0
        self.since = time.monotonic()
        with log.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen([sys.executable, str(PROJECT / "train.py"), *flags], cwd=PROJECT,
                                            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                            env=environment)

    @property
    def output(self) -> str:
        with self.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self.start)
            return file.read()

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Wait until something is so; False where the training ended before."""
        until = time.monotonic() + LIMIT
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > until:
                self.process.kill()
                raise UserError(f"a training made no progress within {LIMIT:.0f} s; see {self.log}", code="timeout")
            time.sleep(POLL)
        return True

    def wait_begun(self) -> bool:
        return self.wait_for(lambda: "results in" in self.output)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        self.wait_for(lambda: self.process.poll() is not None)
        return self.process.wait()


def train_whole(place: Place, optimizer: str) -> Whole:
    """Train with an optimiser, uninterrupted; anew in every call, since code or data may have changed."""
    folder = place.work / f"whole-{optimizer}"
    training = Training(place.flags(optimizer, folder), folder.with_suffix(".log"))
    begun = training.wait_begun()
    began = time.monotonic() - training.since
    if not begun or training.end():
        raise UserError(f"the uninterrupted training failed: {last_line(training.output)}; see {training.log}",
                        code="command-failed")
    return Whole(folder, began, time.monotonic() - training.since)


def interrupt_and_resume(trial: Trial, place: Place) -> Piece:
    """Interrupt as the case says, resume until the end, compare: {"interrupted", "resumed", "note", "ok", ...}."""
    since = time.monotonic()
    with contextlib.ExitStack() as stack:
        home = place.work / "trials" / trial.key.replace(" ", "-")
        if trial.case == "disk":
            home = stack.enter_context(small_disk(home))
            if home is None:
                return {"interrupted": "not possible here: mounting a small disk needs root", "resumed": "", "note": "",
                        "ok": True, "took": 0.0, "skipped": True}
        folder = home / "run"
        try:
            interrupted = CASES[trial.case](trial, place, folder)
            resumed = resume(trial, place, folder)
            found = compare(folder, place.whole[trial.optimizer].folder)
        except UserError as error:
            return {"interrupted": "", "resumed": "", "note": str(error), "ok": False,
                    "took": time.monotonic() - since}
    wrong = [what for what, same in found.items() if not same]
    return {"interrupted": interrupted, "resumed": resumed, "optimizer": trial.optimizer, **found, "ok": not wrong,
            "note": f"{', '.join(wrong)} differ" if wrong else "all equal", "took": time.monotonic() - since}


def resume(trial: Trial, place: Place, folder: Path) -> str:
    """`train.py --resume FOLDER` until the training has ended; where it went on from, as it printed.

    A training that was killed before its first checkpoint is started anew, as a user would.
    """
    last, log = folder / "weights" / "last.pt", place.log(trial, "resumed")
    flags = ["--resume", str(folder), "--device", "cpu"]
    if trial.case == "workers":
        flags += ["--workers", str(2 - _workers(trial))]
    if not last.is_file():
        flags = place.flags(trial.optimizer, folder)
    elif trial.case != "torn" and "train" not in load_checkpoint(last):
        return "it had ended"
    training = Training(flags, log)
    code = training.end()
    if code:
        raise UserError(f"resuming failed with code {code}: {last_line(training.output)}; see {log}",
                        code="command-failed")
    if flags[0] != "--resume":
        return "no checkpoint yet: started anew"
    match = re.search(r"resuming (after .*)", training.output)
    if not match:
        raise UserError(f"it did not say where it went on from; see {log}", code="missing-output")
    if trial.case == "torn" and "previous.pt" not in training.output:
        raise UserError(f"the checkpoint before the torn one was not taken; see {log}", code="missing-output")
    return match[1] + (", from previous.pt" if trial.case == "torn" else "")


def compare(folder: Path, whole: Path) -> dict[str, bool]:
    """Whether the weights and the results of two trainings are the same, bit for bit."""
    found = {}
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(place / "weights" / name)["model"] for place in (folder, whole))
        found[name] = list(ours) == list(theirs) and all(_same(ours[key], theirs[key]) for key in theirs)
    rows = [[{k: v for k, v in row.items() if k not in UNEQUAL_COLUMNS} for row in read_csv(place / "results.csv")]
            for place in (folder, whole)]
    return {**found, "results.csv": rows[0] == rows[1]}


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))


# The cases. Each starts a training, interrupts it, and returns how.

def _at(trial: Trial, place: Place, folder: Path, act: Callable[[Training], str], *more: str,
        epoch_first: bool = False) -> str:
    """Begin a training and `act` at a random moment of it, after the first epoch where `epoch_first`.

    A moment after the training's end, on a machine that is faster by now, is drawn again, nearer to the beginning.
    """
    whole = place.whole[trial.optimizer]
    span = whole.seconds - whole.began
    for tries in range(TRIES):
        _clear(folder)
        training = Training(place.flags(trial.optimizer, folder, *more), place.log(trial, "interrupted"))
        if training.wait_begun():
            if epoch_first:
                training.wait_for(lambda: _rows(folder) >= 1)
            since = time.monotonic()
            # after an epoch: somewhere in the next one and a half
            wait = trial.draws[tries] * (1.5 * span / (place.epochs + 1) if epoch_first else span) / 2**tries
            while time.monotonic() - since < wait and training.process.poll() is None:
                time.sleep(POLL / 4)
            if training.process.poll() is None:
                how = act(training)
                if how:
                    return f"{how} {time.monotonic() - training.since:.1f} s after its start"
                continue
        code = training.process.wait()
        if code:
            raise UserError(f"the training failed with code {code} before it was interrupted: "
                            f"{last_line(training.output)}; see {training.log}", code="command-failed")
    raise UserError(f"{trial.key}: the training was over {TRIES} times before it was interrupted", code="timeout")


def _kill(training: Training) -> str:
    training.process.kill()
    return "SIGKILL" if training.process.wait() == -signal.SIGKILL else ""


def _signalled(number: int) -> Callable[[Training], str]:
    def act(training: Training) -> str:
        """Send the signal; '' where it came in the last evaluation, when nothing is left to be saved."""
        training.process.send_signal(number)
        code = training.end()
        if code in (0, -number):
            return ""
        if code != 128 + number:
            raise UserError(f"{signal.Signals(number).name} ended it with code {code}, not {128 + number}: "
                            f"{last_line(training.output)}; see {training.log}", code="command-failed")
        if "to go on: python train.py --resume" not in training.output:
            raise UserError(f"it did not say how to go on; see {training.log}", code="missing-output")
        when = re.search(r"after \d+ of \d+ batches", training.output)
        return f"{signal.Signals(number).name}, exit code {code}, stopped {when[0] if when else 'between epochs'},"
    return act


def kill(trial: Trial, place: Place, folder: Path) -> str:
    """SIGKILL at a random moment of the whole training"""
    return _at(trial, place, folder, _kill)


def minutes(trial: Trial, place: Place, folder: Path) -> str:
    """SIGKILL within an epoch, with `--save-every-minutes` so small that every step is saved"""
    return _at(trial, place, folder, _kill, "--save-every-minutes", "0.00001", epoch_first=True)


def term(trial: Trial, place: Place, folder: Path) -> str:
    """SIGTERM within an epoch"""
    return _at(trial, place, folder, _signalled(signal.SIGTERM), epoch_first=True)


def interrupt(trial: Trial, place: Place, folder: Path) -> str:
    """SIGINT (Ctrl-C) within an epoch"""
    return _at(trial, place, folder, _signalled(signal.SIGINT), epoch_first=True)


def optimizers(trial: Trial, place: Place, folder: Path) -> str:
    """SIGTERM within an epoch, with every optimiser"""
    return f"{trial.optimizer}: {term(trial, place, folder)}"


def _workers(trial: Trial) -> int:
    return trial.moment % 2 * 2  # 0 or 2, and resumed with the other


def workers(trial: Trial, place: Place, folder: Path) -> str:
    """SIGTERM within an epoch, and resumed with another number of workers"""
    how = _at(trial, place, folder, _signalled(signal.SIGTERM), "--workers", str(_workers(trial)), epoch_first=True)
    return f"{_workers(trial)} workers, then {2 - _workers(trial)}: {how}"


def torn(trial: Trial, place: Place, folder: Path) -> str:
    """SIGKILL, and last.pt cut off at a random byte"""
    how = _at(trial, place, folder, lambda t: _kill(t) if t.wait_for((folder / "weights/previous.pt").is_file) else "",
               epoch_first=True)
    last = folder / "weights" / "last.pt"
    size = last.stat().st_size
    keep = int(trial.draws[-1] * size)
    os.truncate(last, keep)
    return f"last.pt cut to {keep:,} of {size:,} bytes; {how}"


def disk(trial: Trial, place: Place, folder: Path) -> str:
    """The disk is full when a checkpoint is written (a small file system, filled up; space is made before resuming)"""
    return _at(trial, place, folder, lambda training: _starve(training, folder, lambda _: _fill(folder)),
               epoch_first=True)


def limit(trial: Trial, place: Place, folder: Path) -> str:
    """Writing fails in the middle of a checkpoint (no file may be larger than 1 MiB from a random moment on)"""
    def forbid(training: Training) -> contextlib.AbstractContextManager:
        resource.prlimit(training.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        return contextlib.nullcontext()
    return _at(trial, place, folder, lambda training: _starve(training, folder, forbid), epoch_first=True)


def _starve(training: Training, folder: Path,
            take: Callable[[Training], contextlib.AbstractContextManager]) -> str:
    """Fill the disk and wait for the training to fail; '' if it needed no more space."""
    with take(training):
        code = training.end()
    if code == 0:
        return ""
    said = last_line(training.output)
    if code != 1 or not said.startswith("error:"):
        raise UserError(f"without space it ended with code {code}: {said}; see {training.log}", code="command-failed")
    leftovers = [path.name for path in (folder / "weights").glob(".*")]
    if leftovers:
        raise UserError(f"it left {leftovers} behind", code="check-failed")
    return f"`{re.sub(r'(/[^/ :]+)+/', '', said)}`,"


@contextlib.contextmanager
def _fill(folder: Path) -> Iterator[None]:
    """Within this block the file system of `folder` has no room left."""
    filler = folder.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def small_disk(home: Path) -> Iterator[Path | None]:
    """A file system of its own of `DISK_MB`, in memory; None where that is not allowed."""
    home.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(home)],
                             capture_output=True).returncode == 0
    try:
        yield home if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(home)], check=False)


def _rows(folder: Path) -> int:
    path = folder / "results.csv"
    return max(path.read_text(encoding="utf-8").count("\n") - 1, 0) if path.is_file() else 0


def _clear(folder: Path) -> None:
    """What an earlier try left behind."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


CASES: dict[str, Callable[[Trial, Place, Path], str]] = {
    "kill": kill, "term": term, "int": interrupt, "minutes": minutes, "disk": disk, "limit": limit, "torn": torn,
    "workers": workers, "optimizers": optimizers}
