"""Programs that alternate: each is a process that answers a line on stdin with a line of JSON."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import PROJECT, last_line
from utils.errors import UserError

Row = dict[str, Any]


@dataclass
class Program:
    """One program in one configuration: `command` is started with one more word, a file that holds `config`."""

    name: str
    command: list[str]
    config: Row
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)
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
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads),
                       "YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1",  # the peer's: nothing at home, no network
                       **self.environment}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen([*self.command, str(config)], cwd=PROJECT, env=environment, text=True,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                             start_new_session=True)
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, stream) -> None:
        for line in stream:
            if line.startswith("{"):  # not what a library says while it is imported
                self._answers.put(line)
        self._answers.put("")  # it has ended

    def wait_ready(self, seconds: float) -> None:
        """Wait for its first answer: the facts about it."""
        self.facts = self._answer(seconds)

    def ask(self, line: str, seconds: float) -> Row:
        """What it answers to a line. Raises `UserError` where it does not within so many seconds."""
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._failed("ended")
        return self._answer(seconds)

    def answers(self, line: str, until: float) -> Iterator[Row]:
        """All that it answers to a line up to an answer that holds `end`, which comes too.

        Raises `UserError` where that is not there by `until` (time.monotonic).
        """
        answer = self.ask(line, max(until - time.monotonic(), 0))
        yield answer
        while "end" not in answer:
            answer = self._answer(max(until - time.monotonic(), 0))
            yield answer

    def _answer(self, seconds: float) -> Row:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._failed(f"said nothing for {seconds:.0f} s")
        if not line:
            self._failed("ended")
        return json.loads(line)

    def _failed(self, what: str) -> None:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        raise UserError(f"{self.name}: {what}: {last_line(text)} (see {self._log})", code="command-failed")

    def stop(self, patience: float = 10.0) -> None:
        """End the process and its loaders, by force where it has not ended by itself within so many seconds."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._process.stdin.close()
            self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: what it has started goes with it
        self._process.wait()
