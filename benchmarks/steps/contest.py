"""Several programs that train, taking turns: each a process that runs its steps when its round comes."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.smoke.results import PROJECT
from utils.errors import UserError

PEER_SCRIPT = PROJECT / "benchmarks" / "steps" / "peer_ultralytics.py"
READY_SECONDS, ROUND_SECONDS = 180.0, 600.0  # a first step may compile for minutes
Row = dict[str, Any]


@dataclass
class Contender:
    """One program in one configuration: `config` is what `steps/ours.py` or the peer's script reads."""

    name: str
    config: dict[str, Any]
    python: str = ""  # of the peer; '' runs ours
    facts: Row = field(default_factory=dict)
    rounds: list[Row] = field(default_factory=list)
    _process: subprocess.Popen | None = None
    _answers: "queue.Queue[str]" = field(default_factory=queue.Queue)
    _log: Path = Path()

    def start(self, folder: Path) -> None:
        """Start the process; its output other than answers goes to a log in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = "".join(c if c.isalnum() else "-" for c in self.name)
        config, self._log = folder / f"{stem}.json", folder / f"{stem}.log"
        config.write_text(json.dumps(self.config), encoding="utf-8")
        words = [self.python, str(PEER_SCRIPT)] if self.python else [sys.executable, "-m", "benchmarks.steps.ours"]
        place = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1"} if self.python else {}
        environment = {**os.environ, **place, "OMP_NUM_THREADS": str(self.config["threads"])}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen([*words, str(config)], cwd=PROJECT, env=environment, text=True,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                             start_new_session=True)
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, stream) -> None:
        for line in stream:
            if line.startswith("{"):  # not what a library says while it is imported
                self._answers.put(line)
        self._answers.put("")  # it has ended

    def wait_ready(self) -> None:
        self.facts = self._answer(READY_SECONDS)

    def run(self, skip: int, steps: int) -> Row:
        """Let `skip` steps pass and time the next `steps`: {"steps", "wall", "cpu", "memory_gb"}, seconds and GiB."""
        try:
            self._process.stdin.write(f"{skip} {steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed("ended")
        return self._answer(ROUND_SECONDS)

    def _answer(self, seconds: float) -> Row:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._failed(f"said nothing for {seconds:.0f} s")
        if not line:
            self._failed("ended")
        return json.loads(line)

    def _failed(self, what: str) -> None:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else ""
        raise UserError(f"{self.name}: {what}: {last[-300:]} (see {self._log})")

    def stop(self) -> None:
        """End the process and its loaders."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._process.stdin.close()
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: what it has started goes with it
        self._process.wait()


def compete(contenders: Sequence[Contender], folder: Path, rounds: int, steps: int, skip: int) -> list[Row]:
    """Rounds in turn, each of `steps` steps after `skip` untimed ones; a row of medians for each contender.

    One that fails has the row {"name", "failed"}; the others go on. Raises `UserError` where none is left.
    """
    failed: dict[str, str] = {}

    def each(act: Callable[[Contender], object]) -> None:
        for one in contenders:
            if one.name in failed:
                continue
            try:
                act(one)
            except UserError as error:
                failed[one.name] = str(error)
                one.stop()

    try:
        each(lambda one: one.start(folder))
        each(Contender.wait_ready)
        each(lambda one: one.facts.update(first_step_s=one.run(0, 1)["wall"]))  # compiles, tunes, allocates
        each(lambda one: one.run(skip, min(steps, 3)))
        for _ in range(rounds):
            each(lambda one: one.rounds.append(one.run(skip, steps)))
    finally:
        for one in contenders:
            one.stop()
    if len(failed) == len(contenders):
        raise UserError("; ".join(failed.values()))
    return [{"name": one.name, "failed": failed[one.name]} if one.name in failed else summary(one)
            for one in contenders]


def summary(one: Contender) -> Row:
    """Medians over rounds, per step, and the largest memory."""
    walls = sorted(r["wall"] / r["steps"] for r in one.rounds)
    batch = one.config["batch"]
    row = {"name": one.name, **one.facts, "source": one.config["source"], "steps": one.rounds[0]["steps"],
           "rounds": len(one.rounds), "ms": 1e3 * median(walls), "fastest_ms": 1e3 * walls[0],
           "slowest_ms": 1e3 * walls[-1], "images_per_s": batch / median(walls),
           "cpu_s": median(r["cpu"] / r["steps"] for r in one.rounds)}
    for name in ("memory_gb", "reserved_gb"):
        if name in one.rounds[0]:
            row[name] = max(r[name] for r in one.rounds)
    return row
