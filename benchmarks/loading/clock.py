"""How a loader is timed: an epoch for each line on stdin, answered by a line of JSON on stdout.

This file is imported by the peer's process too: nothing of this project may be imported here.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
REST = 0.5  # seconds without work after which workers are taken to have nothing to do
WORK = 0.015  # CPU seconds of workers that are more than waking up to look for requests
UNCOUNTED = 2  # epochs: the first starts workers and touches memory, the second the rest of a ring that holds more


def serve(loader: Iterable, images_of: Callable[[Any], int], **facts: Any) -> None:
    """Answer each line with {"images", "wall", "cpu"} of one epoch, until stdin ends.

    What anybody else prints goes to stderr.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for _ in range(UNCOUNTED):
        epoch(loader, images_of)
    print(json.dumps(facts), file=channel, flush=True)
    for _ in sys.stdin:
        print(json.dumps(epoch(loader, images_of)), file=channel, flush=True)
    os._exit(0)  # the workers of a loader end with their parent; there is nothing to clean up


def epoch(loader: Iterable, images_of: Callable[[Any], int]) -> dict[str, float]:
    """Time one pass over a loader, in seconds: of the clock, and of this process and its workers together.

    Some loaders' workers go on with batches of the next pass. They are waited for: an epoch then costs what it costs to
    make as many batches as were taken, and nobody works in the other side's round.
    """
    wall, own, theirs = time.perf_counter(), time.process_time(), worker_seconds()
    images = sum(map(images_of, loader))
    own = time.process_time() - own  # looking at workers while they come to rest is no work
    ended, spent = rest()
    return {"images": images, "wall": ended - wall, "cpu": own + spent - theirs}


def rest() -> tuple[float, float]:
    """Wait until all workers rest: when they last worked, and their CPU seconds by then."""
    worked, spent = time.perf_counter(), worker_seconds()
    while time.perf_counter() - worked < REST:
        time.sleep(0.02)
        if worker_seconds() - spent > WORK:
            worked, spent = time.perf_counter(), worker_seconds()
    return worked, spent


def worker_seconds() -> float:
    """CPU time of the children of this process, of those that live and those that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            try:
                words = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            total += (int(words[11]) + int(words[12])) / TICK
    return total
