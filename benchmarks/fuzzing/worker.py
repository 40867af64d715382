"""A process of the pool: generates inputs and gives them to the program.

The heavy libraries are imported here, in the process that the pool's are forked from, so that a worker that had to be
ended is replaced in milliseconds.
"""

import argparse
import contextlib
import faulthandler
import io
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.fuzzing import corpus
from benchmarks.fuzzing.kind import Kind, Outcome, Wrong
from utils.errors import run_script

ROOT = Path(__file__).resolve().parents[2]
ADDRESSES = 8 << 30  # bytes of address space beyond what a worker has at its start: more is a MemoryError there
LARGEST_FILE = 1 << 30
LONGEST = 2000  # characters of a line of a refusal
MADE = "made"  # told to the pool when an input lies there and the clock starts
ESCAPE = re.compile("[\x1b\x07\x9b]")
FRAME = re.compile(r'File "([^"]+)", line \d+,? in (\S+)')


@dataclass(frozen=True)
class Task:
    """An input by its kind, seed and number, or the file of a corpus that holds it."""

    kind: str
    seed: int
    number: int
    file: Path | None = None


def serve(pipe: Connection, kinds: dict[str, Kind], home: Path, ground: Path) -> None:
    """Do the tasks that come through `pipe`, until it says None; the pool watches time and memory meanwhile."""
    os.setpgid(0, 0)  # what an attempt has started ends with this process
    home.mkdir(parents=True, exist_ok=True)
    with (home / "log").open("wb", buffering=0) as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(log)
        faulthandler.register(signal.SIGUSR1, log, all_threads=True)
        _limit()
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        sys.argv = ["fuzz"]
        pipe.send(None)
        while (task := pipe.recv()) is not None:
            log.truncate(0)
            pipe.send(do(task, kinds[task.kind], home / "case", ground, pipe))


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ADDRESSES
    for what, size in ((resource.RLIMIT_AS, most), (resource.RLIMIT_FSIZE, LARGEST_FILE), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (size, resource.getrlimit(what)[1]))


def do(task: Task, kind: Kind, folder: Path, ground: Path, pipe: Connection) -> Outcome:
    """Make an input, or take it from the corpus, and try it."""
    outcome = Outcome(task.kind, task.seed, task.number, "ok", corpus=task.file.name if task.file else "")
    here, began, before = Path.cwd(), time.process_time(), 0
    try:
        prepare(task, kind, folder, ground)
        before = _restart_peak()
        pipe.send(MADE)
        began = time.process_time()
        os.chdir(folder)
        outcome.result, outcome.text = _judge(*_as_script(kind, folder))
    except BaseException as error:  # noqa: BLE001  any exception is a finding
        _describe(outcome, error)
    finally:
        os.chdir(here)
        outcome.seconds = time.process_time() - began
        outcome.megabytes = max(_status("VmHWM") - before, 0) / 1024
    return outcome


def _describe(outcome: Outcome, error: BaseException) -> None:
    """Make a failure of it."""
    trace = traceback.format_exc()
    outcome.text = f"{type(error).__name__}: {error}"[:1000]
    outcome.detail = trace if len(trace) < 6000 else f"{trace[:3000]}\n...\n{trace[-3000:]}"
    if isinstance(error, Wrong):
        outcome.result, outcome.place = "wrong", str(error).partition(":")[0][:80]
    else:
        outcome.result, outcome.place = "traceback", place_of(trace)


def prepare(task: Task, kind: Kind, folder: Path, ground: Path) -> None:
    """The input of a task in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if task.file:
        corpus.unpack(task.file, folder)
    else:
        kind.make(rng_of(task), grounded(kind, ground), folder)


def rng_of(task: Task) -> np.random.Generator:
    """What decides a case: its seed, kind and number, and nothing else."""
    return np.random.default_rng([task.seed, zlib.crc32(task.kind.encode()), task.number])


def grounded(kind: Kind, ground: Path) -> Path:
    """The folder of what a kind's cases start from, made by whichever worker needs it first."""
    place = ground / kind.name
    if not place.is_dir():
        own = ground / f"{kind.name}.{os.getpid()}"
        own.mkdir(parents=True)
        kind.ground(own)
        with contextlib.suppress(OSError):  # another worker was faster
            own.rename(place)
    return place


def _as_script(kind: Kind, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an attempt that is run as our scripts run their `main`."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_script(lambda _: kind.attempt(folder), argparse.ArgumentParser())
        except SystemExit as end:
            code = end.code or 0
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def _judge(code: int, out: str, err: str) -> tuple[str, str]:
    """(result, text) of a program that ended by itself."""
    lines = err.strip().splitlines() or [""]
    text = next((line for line in lines if "error: " in line), lines[-1]) if code else ""
    escape = ESCAPE.search(out + err)
    if escape:
        line = next(line for line in (out + err).split("\n") if ESCAPE.search(line))
        raise Wrong(f"terminal escape in what is printed: {line[:200]!r}")
    if code == 1 and max(map(len, lines)) > LONGEST:  # argparse (2) repeats what stood on the command line
        raise Wrong(f"endless message: {max(map(len, lines))} characters, beginning with {text[:200]!r}")
    if code not in (0, 1, 2):
        raise Wrong(f"exit code {code}: {text[:500]}")
    return ("refused" if code else "ok"), text[:500]


def place_of(trace: str) -> str:
    """The innermost function of this project in a traceback, `models/builder.py:build_graph`, benchmarks left aside."""
    frames = FRAME.findall(trace)
    if "most recent call first" in trace:  # as faulthandler writes it
        frames.reverse()
    ours = [
        (Path(file).relative_to(ROOT), name)
        for file, name in frames
        if Path(file).is_relative_to(ROOT) and ".venv" not in file
    ]
    best = [f for f in ours if f[0].parts[0] not in ("benchmarks", "tests") and f[0].name != "errors.py"] or [
        f for f in ours if f[0].name != "errors.py"]
    return f"{best[-1][0]}:{best[-1][1]}" if best else "outside"


def _restart_peak() -> int:
    """KiB in memory now, from where the peak is measured anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(word: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word))
