"""Supervised processes that try inputs: one that exceeds its time or memory is killed and replaced."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

from benchmarks.fuzzing.kind import Kind, Outcome
from benchmarks.fuzzing.worker import MADE, Task, place_of, serve

TICK = 0.05  # seconds between two looks
USES = 400  # cases of a worker: what a library keeps for ever shall not count against later cases
PRELOADED = ["benchmarks.fuzzing.kinds", "benchmarks.fuzzing.worker", "train", "detect", "export", "data.__main__"]
START = 120.0  # seconds of the clock for a worker to start and for an input to be made
PAGE, HZ = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


class Worker:
    """One process and the task it is at."""

    def __init__(
        self, context: multiprocessing.context.BaseContext, kinds: dict[str, Kind], home: Path, ground: Path
    ) -> None:
        self.home, self.kinds, self.done = home, kinds, 0
        self.task: Task | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, kinds, home, ground), daemon=False)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(START):
            raise RuntimeError(f"a worker did not start within {START:.0f} s")
        self.pipe.recv()

    def give(self, task: Task) -> None:
        """Start with a task."""
        self.task, self.made = task, False
        self.since, self.cpu, self.memory = time.monotonic(), 0.0, 0
        self.pipe.send(task)

    def look(self) -> Outcome | None:
        """What became of the task, where that is known now."""
        try:
            if self.pipe.poll():
                message = self.pipe.recv()
                if message == MADE:
                    self.made, self.since = True, time.monotonic()
                    self.cpu, self.memory = self._usage()
                    return None
                self.done += 1
                return message
            return self._overdue()
        except (EOFError, ConnectionError, FileNotFoundError, ProcessLookupError):
            self.process.join()
            code = self.process.exitcode
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            return self._failed("crash", f"the process ended with {name}")

    def _overdue(self) -> Outcome | None:
        kind, clock = self.kinds[self.task.kind], time.monotonic() - self.since
        if not self.made:
            return self._end("hang", "the input was not made in time") if clock > START else None
        cpu, memory = self._usage()
        self.spent, self.grown = cpu - self.cpu, (memory - self.memory) / 2**20
        if self.grown > kind.gigabytes * 1024:
            return self._end("bomb", f"took {self.grown:.0f} MiB")
        if self.spent > kind.seconds or clock > (kind.walls or 6 * kind.seconds):
            return self._end("hang", f"took {self.spent:.0f} s of processor time and {clock:.0f} s")
        return None

    def _usage(self) -> tuple[float, int]:
        """Seconds of processor time and bytes in memory so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / HZ, int(stat[21]) * PAGE

    def _end(self, result: str, text: str) -> Outcome:
        """Ask where the process is, and end it."""
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(0.2)
        self.close()
        return self._failed(result, text)

    def _failed(self, result: str, text: str) -> Outcome:
        log = (
            (self.home / "log").read_bytes().decode("utf-8", "replace").replace("\0", "")
            if (self.home / "log").is_file()
            else ""
        )
        stacks = [place_of(f"most recent call first\n{part}") for part in re.split("(?:Current t|T)hread", log)]
        busy = [place for place in stacks if place not in ("outside", "data/file_threads.py:in_threads")]
        place = busy[-1] if busy else stacks[-1]  # the main thread comes last, and may only wait for the others
        clock = time.monotonic() - self.since
        return Outcome(
            self.task.kind, self.task.seed, self.task.number, result, place, text, log[-4000:],
            getattr(self, "spent", clock), getattr(self, "grown", 0.0), self.task.file.name if self.task.file else "",
        )

    def close(self) -> None:
        """End the process and what it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool:
    """`jobs` workers over a stream of tasks."""

    def __init__(self, kinds: dict[str, Kind], work: Path, jobs: int) -> None:
        self.kinds, self.work, self.jobs = kinds, work.resolve(), jobs
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.workers: list[Worker] = []

    def run(self, tasks: Iterator[Task], report: Callable[[Outcome, Path], None], until: float = float("inf")) -> None:
        """Try all tasks, or those begun before `until` (`time.monotonic`); `report` gets each outcome and
        the folder of its input, as long as that is there."""
        try:
            self.workers = [self._worker(i) for i in range(self.jobs)]
            idle = list(range(self.jobs))
            left = True
            while left or len(idle) < self.jobs:
                while left and idle:
                    task = next(tasks, None) if time.monotonic() < until else None
                    left = task is not None
                    if left:
                        self.workers[idle.pop()].give(task)
                busy = [i for i in range(self.jobs) if i not in idle]
                wait([self.workers[i].pipe for i in busy], TICK) if busy else None
                for i in busy:
                    outcome = self.workers[i].look()
                    if outcome is not None:
                        report(outcome, self.workers[i].home / "case")
                        self._renew(i)
                        idle.append(i)
        finally:
            for worker in self.workers:
                worker.close()

    def _worker(self, number: int) -> Worker:
        return Worker(self.context, self.kinds, self.work / f"worker{number}", self.work / "ground")

    def _renew(self, number: int) -> None:
        worker = self.workers[number]
        if worker.process.exitcode is not None or worker.done >= USES:
            worker.close()
            self.workers[number] = self._worker(number)
