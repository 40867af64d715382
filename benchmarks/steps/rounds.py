"""Timing of a training loop: rounds of steps are requested on stdin and answered as JSON lines on stdout.

Both sides of a comparison are processes that wait here for their turn. The peer's process imports this file too, so it
imports nothing of this project.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30


class Rounds:
    """Call `before_step()` at the start of every step of an endless training loop.

    It waits for a line `SKIP STEPS` on stdin, lets SKIP steps pass, times the next STEPS (loading their batches
    included), answers, and waits again. The end of stdin ends the process by `SystemExit`. What anybody else prints
    goes to stderr.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._skip = self._left = self._steps = 0
        self._since = (0.0, 0.0)
        self._running = False
        self._waits: list[Callable[[], float]] = []

    def ready(self, **facts: Any) -> None:
        """Tell what is about to be timed: the last word before the first step."""
        self._say({**facts, "python_gb": peak_rss_gb(), "torch": torch.__version__,
                   "threads": torch.get_num_threads()})

    def waited(self, seconds_of: Callable[[], float]) -> None:
        """Add the seconds that the device waited for the batch of the step to come, where the round has begun by now;
        they are asked for when it has ended."""
        if self._running and self._skip == 0 and self._left < self._steps:
            self._waits.append(seconds_of)

    def before_step(self) -> None:
        if self._running and self._skip == 0 and self._left == 0:
            self._finish()
        if not self._running:
            self._wait()
        if self._skip > 0:
            self._skip -= 1
            return
        if self._left == self._steps:
            self._settle()
            self._since = (time.perf_counter(), time.process_time())
        self._left -= 1

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line.strip():
            raise SystemExit(0)
        self._skip, self._steps = map(int, line.split())
        self._left, self._running = self._steps, True
        self._waits.clear()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _finish(self) -> None:
        self._settle()
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        self._running = False
        memory = {"memory_gb": peak_rss_gb()}
        if self.device.type == "cuda":
            memory = {"memory_gb": torch.cuda.max_memory_allocated(self.device) / GIB,
                      "reserved_gb": torch.cuda.max_memory_reserved(self.device) / GIB}
        waited = {"waited": sum(seconds_of() for seconds_of in self._waits)} if self._waits else {}
        self._say({"steps": self._steps, "wall": wall, "cpu": cpu, **memory, **waited})

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _say(self, facts: dict[str, Any]) -> None:
        self._channel.write(json.dumps(facts) + "\n")
        self._channel.flush()


def peak_rss_gb() -> float:
    """Peak resident memory of this process so far, in GiB (Linux tells KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
