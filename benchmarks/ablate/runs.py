"""The runs of an ablation on this machine: each trains by train.py and is evaluated by val.py, in processes of their
own; `Machine.limit` of them side by side.

Files of a run KEY in the folder of the ablation: `train/KEY/` and `train/KEY.log` (train.py), `test/KEY/` (val.py:
metrics.json, predictions.json), `test/KEY/run.json` (what the report reads, written last), `train/KEY.lock` (held by
the process that works on the run, and by its children if it dies).
"""

import datetime
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.ablate.plan import Plan, Run
from benchmarks.ablate.store import Store
from benchmarks.processes import stop
from benchmarks.record import PROJECT, last_line
from engine.training.checkpoints import has_ended
from utils.checkpoint import load_checkpoint
from utils.cli import cores
from utils.errors import UserError
from utils.files import write_bytes
from utils.reporting.run_log import read_csv
from utils.reporting.run_record import revision
from utils.signals import StopRequest

POLL = 0.3
STOPPING = 60.0  # seconds that a training has to save itself
MOST = 12  # trainings side by side that are chosen without --jobs
RESERVE = 1.25, 1.5  # memory of a training on a GPU beyond its allocator's peak: a factor, and GiB of its context
Launch = Callable[[Sequence[str], TextIO, dict[str, str], int], subprocess.Popen]


@dataclass(frozen=True)
class Machine:
    """How this machine trains. jobs: None: derived from the memory of a GPU, 1 on a CPU; threads: of each training;
    flags: of train.py and val.py alike."""

    device: torch.device
    jobs: int | None = None
    threads: int | None = None
    flags: tuple[str, ...] = ()
    free_gb: float = 0.0

    def limit(self, peaks: Sequence[float]) -> int:
        """How many trainings may run; peaks: GiB that trainings were seen to take on the GPU."""
        if self.jobs or self.device.type == "cpu" or not peaks:
            return self.jobs or 1
        factor, more = RESERVE
        return max(1, min(MOST, cores() // 2, int(self.free_gb / (factor * max(peaks) + more))))


@dataclass
class Going:
    """A run under way. step: "train" or "test"; began: of this session."""

    run: Run
    lock: TextIO
    step: str
    process: subprocess.Popen | None = None
    began: float = field(default_factory=time.monotonic)


def launch(words: Sequence[str], log: TextIO, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """A script of this project as a process, in a session of its own: Ctrl-C reaches it through this program alone."""
    return subprocess.Popen([sys.executable, *words], cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT,
                            env=environment, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(lock,))


class Runner:
    """Works through the runs of a plan in a folder. report(run, result or error text): after each run."""

    def __init__(self, plan: Plan, folder: Path, store: Store, machine: Machine, start: Launch = launch) -> None:
        self.plan, self.folder, self.store, self.machine, self.start = plan, folder.resolve(), store, machine, start
        self.going: list[Going] = []
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []
        done = store.results()
        self.waiting = [run for run in plan.runs if run.key not in done]
        for arm in ("train", "test"):
            (self.folder / arm).mkdir(parents=True, exist_ok=True)

    def work(self, stopping: StopRequest, status: Callable[["Runner"], None]) -> None:
        """Run all that is left and not under way elsewhere, until done or stopped. Children that are left are stopped
        in any case, and their runs given back."""
        elsewhere: list[Run] = []
        try:
            while (self.waiting or self.going) and not stopping.number:
                while self.waiting and len(self.going) < self.machine.limit(self._peaks()):
                    run = self.waiting.pop(0)
                    if not self._begin(run):
                        elsewhere.append(run)
                for going in list(self.going):
                    self._advance(going)
                self.store.beat()
                status(self)
                time.sleep(POLL)
        finally:
            stop([going.process for going in self.going if going.process], STOPPING)
            for going in self.going:
                self.store.release(going.run.key)
                going.lock.close()
            self.waiting += [going.run for going in self.going] + elsewhere

    def _begin(self, run: Run) -> bool:
        """Take a run, unless it is done or under way elsewhere."""
        if not self.store.claim(run.key):
            return False
        lock = (self.folder / "train" / f"{run.key}.lock").open("w", encoding="utf-8")
        self.going.append(Going(run, lock, "lock"))
        print(f"{run.key}: taken ({_time()})", flush=True)
        return True

    def _advance(self, going: Going) -> None:
        """Start the next step of a run where the one before has ended."""
        if going.step == "lock":
            try:
                fcntl.flock(going.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # a training of a command that was killed goes on: it will end, and then is evaluated
                return
            going.step = "train"
            self._start(going, train_words(going.run, self.folder, self.machine))
            return
        code = going.process.poll() if going.process else 0
        if code is None:
            return
        if code:
            log = (self.folder / "train" / f"{going.run.key}.log").read_text(encoding="utf-8", errors="replace")
            self._end(going, f"{going.step} ended with code {code}: {last_line(log)}")
        elif going.step == "train":
            going.step = "test"
            done = (self.folder / "test" / going.run.key / "run.json").is_file()
            self._start(going, None if done else test_words(going.run, self.plan.split, self.folder, self.machine))
        else:
            try:
                self._end(going, "", self._result(going))
            except UserError as error:
                self._end(going, str(error))

    def _start(self, going: Going, words: Sequence[str] | None) -> None:
        going.process = None
        if words is None:
            return
        threads = {"OMP_NUM_THREADS": str(self.machine.threads)} if self.machine.threads else {}
        with (self.folder / "train" / f"{going.run.key}.log").open("a", encoding="utf-8") as log:
            log.write(f"\n$ python {shlex.join(words)}\n")
            log.flush()
            going.process = self.start(words, log, {**os.environ, **threads}, going.lock.fileno())

    def _end(self, going: Going, error: str, result: dict[str, Any] | None = None) -> None:
        self.going.remove(going)
        key = going.run.key
        if result is None:
            self.failed[key] = error
            self.store.release(key, error)
        else:
            first = next(iter(result["values"].values()))
            self.store.complete(key, -1.0 if first is None else first, result)
            self.seconds.append(time.monotonic() - going.began)
        going.lock.close()
        record(self.folder, {"run": key, "error": error} if error else result)
        told = error or f"AP {_shown(result['values'].get('AP'))} on {result['split']}, {_span(result['seconds'])}"
        print(f"{key}: {told} ({self.counted()})", flush=True)

    def _result(self, going: Going) -> dict[str, Any]:
        """What the report needs of a run, which is written down in run.json."""
        run, place = going.run, self.folder / "test" / going.run.key
        path = place / "run.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        trained, tested = (_metrics(self.folder / part / run.key / "metrics.json") for part in ("train", "test"))
        rows = read_csv(self.folder / "train" / run.key / "results.csv")
        result = {
            "run": run.key, "arm": run.arm.name, "seed": run.seed, "words": list(run.words), "split": self.plan.split,
            "values": tested["values"], "val": trained["values"], "epochs": len(rows),
            "best_epoch": trained["run"].get("best_epoch"), "seconds": training_seconds(rows),
            "images_per_s": float(rows[-1]["images_per_s"]), "memory_gb": max(float(r["memory_gb"]) for r in rows),
            "data": self.plan.digest, "commit": trained["run"].get("commit"), "torch": trained["run"].get("torch"),
            "device": trained["run"].get("device"), "host": socket.gethostname(), "date": _now()}
        write_bytes(path, json.dumps(result, indent=1).encode())
        return result

    def _peaks(self) -> list[float]:
        """GiB of the trainings that have told theirs."""
        return [max(float(row["memory_gb"]) for row in rows) for going in self.going
                if (rows := epochs_of(self.folder, going.run))] + [
            result["memory_gb"] for result in self.store.results().values() if result["host"] == socket.gethostname()]

    def counted(self) -> str:
        """How many runs are done, and about how long the others take here."""
        total = len(self.plan.runs)
        left = len(self.waiting) + len(self.going)
        said = f"{total - left - len(self.failed)} of {total} done"
        if self.seconds and left:
            side = max(1, min(left, self.machine.limit(self._peaks())))
            said += f", about {_span(sum(self.seconds) / len(self.seconds) * left / side)} to go"
        return said


def train_words(run: Run, folder: Path, machine: Machine) -> list[str] | None:
    """What starts or continues the training of a run; None where it has ended."""
    weights = folder / "train" / run.key / "weights"
    last = weights / "last.pt"
    if last.is_file() or (weights / "previous.pt").is_file():
        try:
            ended = has_ended(load_checkpoint(last))
        except UserError:  # damaged or missing: train.py takes the checkpoint before it
            ended = False
        return None if ended else ["train.py", "--resume", str(last), *machine.flags]
    return ["train.py", *run.words, "--noplots", "--project", str(folder / "train"), "--name", run.key, "--exist-ok",
            *machine.flags]


def test_words(run: Run, split: str, folder: Path, machine: Machine) -> list[str]:
    """What evaluates best.pt of a run as it was trained: in windows with --tile."""
    config = run.arm.config
    words = ["val.py", "--weights", str(folder / "train" / run.key / "weights" / "best.pt"), "--task", split,
             "--save-json", "--noplots", "--project", str(folder / "test"), "--name", run.key, "--exist-ok"]
    words += ["--data", config.data or "shapes", "--max-pixels", str(config.max_pixels), "--protocol", config.protocol]
    words += ["--single-cls"] * config.single_cls
    for flag, numbers in (("--size-bins", config.size_bins), ("--eval-iou", config.eval_iou)):
        words += [flag, ",".join(f"{number:g}" for number in numbers)] if numbers else []
    for path in config.plugin:
        words += ["--plugin", path]
    if config.tile:
        words += ["--slice", str(config.tile), "--overlap", str(config.tile_overlap)]
    return [*words, *machine.flags]


def epochs_of(folder: Path, run: Run) -> list[dict[str, str]]:
    """The rows of results.csv so far."""
    path = folder / "train" / run.key / "results.csv"
    try:
        return read_csv(path) if path.is_file() else []
    except UserError:
        return []


def training_seconds(rows: Sequence[dict[str, str]]) -> float:
    """Seconds of training; `time` of results.csv goes on after a resume."""
    return float(rows[-1]["time"])


def _metrics(path: Path) -> dict[str, Any]:
    """The numbers of a metrics.json: of COCO, and the average precisions of other sizes or protocols beside them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, float | None] = {}
        for protocol in sorted(content["protocols"], key=lambda one: one["protocol"] != "coco"):
            values |= {name: value for name, value in protocol["values"].items() if name not in values}
        return {"values": values, "run": content.get("run") or {}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not written by train.py or val.py ({type(error).__name__}: {error}); a split without "
                        "labels has no numbers", "not-a-run") from None


def record(folder: Path, event: dict[str, Any]) -> None:
    """Add a line to log.jsonl, what was done in this folder and when."""
    line = json.dumps({"date": _now(), "host": socket.gethostname(), "commit": revision(), **event}, default=str)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _time() -> str:
    return f"{datetime.datetime.now():%H:%M:%S}"


def _span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
