"""Correctness, speed and accuracy on a GPU in a quarter of an hour. Run the command again to continue.

--list prints the measurements in order and the time limit of each. Figures go to OUT/gpu.json as soon as they exist;
OUT/gpu.md shows them all. benchmarks/README.md describes how to prepare a machine.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks import train_step
from benchmarks.gpu import trainings
from benchmarks.gpu.page import write_page
from benchmarks.gpu.plan import CONTEST, SECTIONS, Task, choose, make_plan
from benchmarks.gpu.schedule import Runner, work_through
from benchmarks.gpu.trainings import Run
from benchmarks.peers import find_peer
from benchmarks.record import PROJECT, Section, write_whole
from utils.cli import number, positive
from utils.device import describe, select_device
from utils.errors import UserError, run_script

GRACE = 3.0  # seconds over the time after which this program ends, even where it waits for something itself
SLOWEST_START = 30.0  # seconds to import all that is needed
RESERVE = 10.0  # seconds at the end that no piece is given: to stop what runs, and to write the page
IMAGES = 1024  # drawn for the whole loops
ROUNDS = ["--rounds", "3", "--steps", "20"]  # of the whole loops


def main(args: argparse.Namespace, age: float = 0.0) -> None:
    """Measure what is missing while the time lasts, and leave a page whatever happens. age: seconds of that time which
    are over, since the program had to be loaded."""
    left = 60 * args.minutes - age
    deadline = time.monotonic() + max(left - RESERVE, 0)
    work, small = Path(args.work).resolve() / ("small" if args.small else ""), args.small
    shared = Path(args.shared).resolve()
    runs = trainings.plan(small, args.epochs, shared, work, write=not args.list)
    plan = make_plan(small)
    tasks, keys = choose(plan, [run.key for run in runs], args.pieces)
    if args.list:
        show_list(tasks, [run for run in runs if run.key in keys])
        return
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible here, and this program asks about GPUs: run it on a machine that "
                        "has one, or rehearse it with --small --device cpu", code="missing-device")
    device = select_device(args.device)
    out = Path(args.out or (work if small else PROJECT / "benchmarks" / "results"))
    record = Section(out, "gpu", small, device)
    planned = {section: [task.key for task in plan if task.section == section] for section in SECTIONS}
    planned["necks"] = [run.key for run in runs]
    print(f"on {describe(device)}; results in {out}")
    for folder in sorted({run.scale.data for run in runs if not run.data}):
        print(f"{shared / 'data' / folder} is not here: trainings on {folder} are left out")
    todo = [task for task in tasks if not is_done(record, task.key, args.retry)]
    missing = [run for run in runs if run.key in keys and run.data and not is_done(record, run.key, args.retry)]
    session = Session(args, record, device, work, deadline, planned)
    with ending_at(max(left, 0) + GRACE):
        try:
            session.prepare(todo, missing)
            work_through(todo, session.run, partial(session.train, missing) if missing else None, deadline)
        finally:
            session.close()
    conclude(record, [*(task.key for task in tasks), *keys])


@contextlib.contextmanager
def ending_at(seconds: float) -> Iterator[None]:
    """End by `SystemExit` when so many seconds are over or a SIGTERM comes, so that what was started is ended too and
    the page is written."""
    stops = (signal.SIGTERM, signal.SIGALRM)
    before = [signal.signal(stop, lambda number, _: sys.exit(128 + number)) for stop in stops]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)


def process_age() -> float:
    """Seconds since this process was started, 0 where the system does not say; never so many that a system which says
    wrong takes all the time."""
    try:
        words = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return min(max(uptime - int(words[19]) / os.sysconf("SC_CLK_TCK"), 0.0), SLOWEST_START)
    except (OSError, ValueError, IndexError):
        return 0.0


def is_done(record: Section, key: str, retry: bool) -> bool:
    """Whether a piece is there: whole, or failed and not to be tried again."""
    piece = record.pieces.get(key, {"unfinished": True})
    return not piece.get("unfinished") and not (retry and "error" in piece)


def show_list(tasks: list[Task], runs: list[Run]) -> None:
    """All pieces with the seconds that each is expected to take at most, and is stopped after."""
    for section, minutes in SECTIONS.items():
        own = [task for task in tasks if task.section == section]
        if own:
            print(f"{section}: {minutes:g} of {sum(SECTIONS.values()):g} minutes, {len(own)} pieces")
        for task in own:
            print(f"    {task.key}: about {task.seconds:.0f} s, at most {task.limit:.0f} s")
    if runs:
        print(f"necks: the rest, {len(runs)} trainings")
    for run in runs:
        print(f"    {run.key}: {run.scale.epochs} epochs" + ("" if run.data else ", whose data are not here"))


class Session:
    """What one call has started, and how it runs each kind of piece."""

    def __init__(self, args: argparse.Namespace, record: Section, device: torch.device, work: Path, deadline: float,
                 planned: dict[str, list[str]]) -> None:
        self.args, self.record, self.device, self.work, self.planned = args, record, device, work, planned
        config = {"device": str(device), "small": args.small, "shared": str(Path(args.shared).resolve()),
                  "work": str(work)}
        self.runner = Runner(record, config, work, deadline)
        self._drawing: subprocess.Popen | None = None
        self._peer = ""

    def prepare(self, tasks: list[Task], runs: list[Run]) -> None:
        """Find the peer, and begin to draw what later pieces read, and to index it."""
        contests = [task for task in tasks if task.function == CONTEST]
        if contests and self.args.peer != "none":
            self._peer = find_any_peer(self.args)
        data = sorted({run.data for run in runs})
        if not contests and not data:
            return
        small = self.args.small
        images = (train_step.IMAGES_SMALL if small else IMAGES) if contests else 0
        self.work.mkdir(parents=True, exist_ok=True)
        config = self.work / "prepare.json"
        config.write_text(json.dumps({"work": str(self.work / "loops"), "imgsz": 64 if small else 640,
                                      "images": images, "data": data}), encoding="utf-8")
        self._drawing = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.prepare", str(config)], cwd=PROJECT,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _drawn(self, until: float) -> None:
        """Wait until the images are there. Raises `UserError` where they will not be."""
        if self._drawing is None:
            return
        try:
            code = self._drawing.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise UserError("the images were not prepared in time", code="timeout") from None
        if code:
            raise UserError(f"the images could not be prepared: benchmarks.gpu.prepare ended with {code}",
                            code="command-failed")

    def run(self, task: Task, until: float) -> None:
        if task.function == CONTEST:
            self._compete(task, until)
        else:
            self.runner.run(task, until)
        self.write()

    def _compete(self, task: Task, until: float) -> None:
        """The loop of train.py from end to end, beside the peer's, as `benchmarks.train_step` runs them."""
        model, batch, source, only = task.args
        since, rows, error = time.monotonic(), [], ""
        small = ["--small"] if self.args.small else [*ROUNDS, "--images", str(IMAGES)]
        peer = ["--peer", "ultralytics"] if self._peer else []
        args = train_step.build_parser().parse_args([*small, *peer])
        try:
            self._drawn(until)
            piece = train_step.measure(f"{model} batch {batch} {source} {only}", args, self.device,
                                       self.work / "loops", self._peer, until)
            rows = piece["rows"]
            error = "; ".join(f"{row['name']}: {row['failed']}" for row in rows if "failed" in row)
        except UserError as problem:
            error = str(problem)
        self.runner.finish(task, rows, error, since)

    def train(self, runs: list[Run], until: float) -> None:
        """The trainings, side by side."""
        try:
            self._drawn(until - trainings.GRACE)
        except UserError as error:
            print(f"{error}: each training does it itself")
        self.runner.close()  # its memory and its core are for them
        cores = os.cpu_count() or 1
        jobs = min(self.args.jobs or min(12, max(cores // 2, 1)), max(len(runs), 1))
        trainings.measure(runs, self.record, self.device, until, jobs, 0 if self.args.small else 1)
        self.write()

    def write(self) -> None:
        write_whole(self.record.folder / "gpu.md", write_page(self.record, self.planned))

    def close(self) -> None:
        """End what was started, and write the page."""
        self.runner.close()
        if self._drawing is not None:
            self._drawing.kill()
            self._drawing.wait()
        self.write()


def find_any_peer(args: argparse.Namespace) -> str:
    """The python that has the peer: that of --peer-python, else this one; '' where neither has it and it is not asked
    for by name."""
    for python in (args.peer_python, sys.executable):
        try:
            return find_peer(argparse.Namespace(peer="ultralytics", peer_python=python))
        except UserError as error:
            if args.peer == "ultralytics" and python == sys.executable:
                raise
            told = error
    print(f"measured without a peer: {told}")
    return ""


def conclude(record: Section, asked: list[str]) -> None:
    """Say what is done, left and wrong. Raises `UserError` where something failed or does not hold."""
    page = record.folder / "gpu.md"
    left = [key for key in asked if not is_done(record, key, retry=False)]
    print(f"{len(left)} of {len(asked)} pieces are left: run the same command again to go on; so far: {page}" if left
          else f"everything asked for is done; the page is {page}")
    wrong = [f"{key}: {piece['error']}" for key, piece in record.pieces.items() if "error" in piece]
    wrong += [f"{key}: {row['what']}" for key, piece in record.pieces.items() for row in piece.get("rows", [])
              if not row.get("ok", True)]
    if wrong:
        raise UserError(f"{len(wrong)} things are not as they should be: {'; '.join(wrong[:5])}; see {page}; --retry "
                        "tries again what failed", code="check-failed")


def build_parser() -> argparse.ArgumentParser:
    """The flags; the module's text is the help."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=number(float, 0), default=12.0, help="end before so many minutes are over")
    add("--pieces", nargs="+", default=[], metavar="NAME", help="these alone: sections or pieces, as --list names them")
    add("--list", action="store_true", help="name all pieces and end")
    add("--retry", action="store_true", help="measure again what failed in an earlier call")
    add("--device", default="0", help="0, 1, ...: the GPU to ask about; cpu: rehearse")
    add("--small", action="store_true", help="a tiny form of every kind of piece, to see that the program runs")
    add("--out", default="", help="folder of gpu.json and gpu.md; default benchmarks/results, with --small WORK/small")
    add("--work", default="runs/gpu", help="folder of what is under way; keep it to be able to go on")
    add("--shared", default=str(PROJECT.parent / "shared"), help="folder that holds golden/ and data/deeppcb")
    add("--epochs", type=positive, help="of the trainings; default 30 on deeppcb, 20 on shapes")
    add("--jobs", type=positive, help="trainings side by side; default: half the cores, at most 12")
    add("--peer", choices=("auto", "ultralytics", "none"), default="auto",
        help="whom to compare train.py with; auto: ultralytics where it is installed")
    add("--peer-python", default="runs/peer/bin/python", metavar="PATH", help="the python that has the peer")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a command stopped at its limit has said all that it did
    run_script(lambda args: main(args, process_age()), build_parser())
