"""Commands as whole processes, in turn, and what each cost."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.record import PROJECT, last_line
from utils.errors import UserError

BUSY = "while True: sum(range(10000))"


@dataclass(frozen=True)
class Cost:
    """Of one run of a command: seconds by the clock, and of CPU time of all its processes and threads."""

    wall: float
    cpu: float


def run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end. Raises `UserError`, with the last line that it said, where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environment}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise UserError(f"{' '.join(command)[:300]}: {last_line(said)}", code="command-failed")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def in_turn(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str],
            rounds: int) -> dict[str, list[Cost]]:
    """The costs of each command, run one after the other so many times; a first run of each warms up."""
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            cost = run(command, environment)
            if turn:
                found[name].append(cost)
    return found


@contextlib.contextmanager
def busy(programs: int) -> Iterator[list[subprocess.Popen]]:
    """So many programs that compute all the time."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(programs)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def cells(costs: Mapping[str, Sequence[Cost]], less: Mapping[str, Sequence[Cost]] | None = None,
          images: int = 0) -> list[str]:
    """Medians of the clock and of CPU time of each side, then, of two, how many times as long the second takes, pair by
    pair. less: what the start takes, with which and `images` the columns are images per second without the start."""
    row, walls = [], []
    for side, runs in costs.items():
        start = median(c.wall for c in less[side]) if less else 0.0
        wall = [cost.wall - start for cost in runs]
        walls.append(wall)
        row += [f"{images / median(wall):.1f}" if images else f"{median(wall):.2f}",
                f"{median(cost.cpu for cost in runs):.2f}"]
    if len(walls) == 2:
        row.append(f"{median(b / a for a, b in zip(*walls, strict=True)):.2f}")
    return row


def link_pictures(paths: Sequence[Path], folder: Path) -> None:
    """A folder of links to the pictures, as both sides read it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        (folder / f"{number:04d}{path.suffix}").symlink_to(path.resolve())
