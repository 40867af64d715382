"""Several training programs that alternate round by round."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.record import PROJECT
from benchmarks.turns import Program, Row
from utils.errors import UserError

PEER_SCRIPT = PROJECT / "benchmarks" / "steps" / "peer_ultralytics.py"
READY_SECONDS, ROUND_SECONDS, STOP_SECONDS = 180.0, 600.0, 10.0  # a first step may compile for minutes


def contender(name: str, config: Row, python: str = "") -> Program:
    """One program: `config` is what `steps/ours.py` or the peer's script reads; python: the peer's, '' runs ours."""
    command = [python, str(PEER_SCRIPT)] if python else [sys.executable, "-m", "benchmarks.steps.ours"]
    return Program(name, command, config, threads=config["threads"])


def compete(contenders: Sequence[Program], folder: Path, rounds: int, steps: int, skip: int,
            until: float = float("inf")) -> list[Row]:
    """Rounds in turn, each of `steps` steps after `skip` untimed ones; a row of medians for each contender.

    One that fails, or has not answered by `until` (time.monotonic), has the row {"name", "failed"}; the others go on.
    Raises `UserError` where none is left.
    """
    failed: dict[str, str] = {}

    def run_steps(one: Program, skip: int, steps: int) -> Row:
        """Let `skip` steps pass and time the next `steps`: {"steps", "wall", "cpu", "memory_gb"}, seconds and GiB."""
        return one.ask(f"{skip} {steps}", within(ROUND_SECONDS))

    def within(seconds: float) -> float:
        return max(min(seconds, until - time.monotonic()), 0.0)

    def each(act: Callable[[Program], object]) -> None:
        for one in contenders:
            if one.name in failed:
                continue
            try:
                act(one)
            except UserError as error:
                failed[one.name] = str(error)
                one.stop(0.0)

    try:
        each(lambda one: one.start(folder))
        each(lambda one: one.wait_ready(within(READY_SECONDS)))
        each(lambda one: one.facts.update(first_step_s=run_steps(one, 0, 1)["wall"]))  # compiles, tunes, allocates
        each(lambda one: run_steps(one, skip, min(steps, 3)))
        for _ in range(rounds):
            each(lambda one: one.rounds.append(run_steps(one, skip, steps)))
    finally:
        for one in contenders:
            one.stop(min(STOP_SECONDS, within(STOP_SECONDS) + 1))
    if len(failed) == len(contenders):
        raise UserError("; ".join(failed.values()), code="command-failed")
    return [{"name": one.name, "failed": failed[one.name]} if one.name in failed else summary(one)
            for one in contenders]


def summary(one: Program) -> Row:
    """Medians over rounds, per step, and the largest memory."""
    walls = sorted(r["wall"] / r["steps"] for r in one.rounds)
    batch = one.config["batch"]
    row = {"name": one.name, **one.facts, "source": one.config["source"], "steps": one.rounds[0]["steps"],
           "rounds": len(one.rounds), "ms": 1e3 * median(walls), "fastest_ms": 1e3 * walls[0],
           "slowest_ms": 1e3 * walls[-1], "images_per_s": batch / median(walls),
           "cpu_s": median(r["cpu"] / r["steps"] for r in one.rounds)}
    if "waited" in one.rounds[0]:
        row["waited_ms"] = 1e3 * median(r["waited"] / r["steps"] for r in one.rounds)
    for name in ("memory_gb", "reserved_gb"):
        if name in one.rounds[0]:
            row[name] = max(r[name] for r in one.rounds)
    return row
