"""Runs pieces while time is left, each supervised: one that hangs or fails costs only its own time."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.plan import SECTIONS, Task
from benchmarks.record import Section
from benchmarks.turns import Program
from utils.errors import UserError

START_SECONDS = 60.0  # for a worker to import all that it needs and find its device
PUT_OFF = 0.25  # of the trainings' time at most
PATIENCE = 1.0  # seconds that a worker is given to end by itself
# What sums in cuBLAS need to be the same twice; read when the device is first used.
ENVIRONMENT = {"correct": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}}


def work_through(tasks: Sequence[Task], run: Callable[[Task, float], None], trainings: Callable[[float], None] | None,
                 deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Run the tasks section by section, then the trainings, until `deadline` by `clock`.

    A section has its share (`SECTIONS`) of the time that is left; a task that may not fit into that is put off until
    the others had their turn, and the trainings leave a part of their time for those. run(task, until) does not last
    beyond `until`, nor does trainings(until).
    """
    def fits(task: Task, end: float) -> bool:
        return clock() < end and clock() + task.seconds <= end

    put_off: list[Task] = []
    works = {section: [task for task in tasks if task.section == section] for section in SECTIONS}
    shares = {section: SECTIONS[section] for section, own in works.items() if own or (section == "necks" and trainings)}
    for section, own in works.items():
        now = clock()
        end = now + max(deadline - now, 0) * shares.pop(section, 0.0) / (sum(shares.values()) + SECTIONS[section])
        for task in own:
            if fits(task, end):
                run(task, min(clock() + task.limit, deadline))
            else:
                put_off.append(task)
    if trainings and clock() < deadline:
        trainings(deadline - min(sum(task.seconds for task in put_off), PUT_OFF * (deadline - clock())))
    for task in put_off:
        if fits(task, deadline):
            run(task, min(clock() + task.limit, deadline))


class Runner:
    """Runs tasks in a process of its own for each section, and writes down every row when it comes.

    config: what `benchmarks.gpu.worker` reads; a task that is stopped at `deadline` counts as unfinished and not as
    failed.
    """

    def __init__(self, record: Section, config: dict, work: Path, deadline: float) -> None:
        self.record, self.config, self.work, self.deadline = record, config, work, deadline
        self._worker: Program | None = None
        self._section = ""

    def run(self, task: Task, until: float) -> None:
        rows: list[dict] = []
        since, error, began = time.monotonic(), "", False

        def add(row: dict) -> None:
            rows.append(row)
            self.record.add(task.key, {"section": task.section, "unfinished": True, "rows": rows},
                            time.monotonic() - since)

        try:
            worker = self._ready(task.section)
            # its limit does not hold the worker's start
            began, until = True, min(until + time.monotonic() - since, self.deadline)
            for answer in worker.answers(json.dumps({"function": task.function, "args": task.args}), until):
                if "row" in answer:
                    add(answer["row"])
                error = answer.get("error", "")
            if answer["end"] == "broken":
                self.close()
        except UserError as gone:
            error = str(gone)
            self.close()
            if began and time.monotonic() >= until:
                error = f"not done within {task.limit:.0f} s"
        self.finish(task, rows, error, since)

    def finish(self, task: Task, rows: list[dict], error: str, since: float) -> None:
        """Write a task down as done, failed, or to be done again, and say which."""
        seconds = time.monotonic() - since
        piece = {"section": task.section, "rows": rows}
        if error and time.monotonic() >= self.deadline - 0.1:  # stopped, and not by its own limit
            piece["unfinished"], error = True, ""
        if error:
            piece["error"] = error
        if rows or error:
            self.record.add(task.key, piece, seconds)
        wrong = [row["what"] for row in rows if not row.get("ok", True)]
        verdict = error or ("time is up" if piece.get("unfinished") else "; ".join(wrong) or "ok")
        print(f"{task.section}: {task.key}: {verdict} ({seconds:.1f} s)")

    def _ready(self, section: str) -> Program:
        """The worker of a section, started where there is none."""
        if self._worker is None or self._section != section:
            self.close()
            command = [sys.executable, "-m", "benchmarks.gpu.worker"]
            self._section = section
            self._worker = Program(f"worker {section}", command, self.config, threads=torch.get_num_threads(),
                                   environment=ENVIRONMENT.get(section, {}))
            self._worker.start(self.work / "workers")
            self._worker.wait_ready(max(min(START_SECONDS, self.deadline - time.monotonic()), 0.0))
        return self._worker

    def close(self) -> None:
        """End the worker, with all that it has started."""
        if self._worker is not None:
            with contextlib.suppress(OSError):
                self._worker.stop(PATIENCE)
        self._worker = None
