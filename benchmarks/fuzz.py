"""Corrupted inputs: does each end in success or in one error message? `python -m benchmarks.fuzz`.

Data sets, labels, images, videos, model files, recipes, checkpoints, exported files and command lines are corrupted at
random and given to the program in supervised processes. A traceback, a hang, excessive memory, a crash or a wrong
result is a failure; it is kept in --corpus, which is tried first the next time. Case k of a kind and seed is fixed.
"""

import argparse
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.fuzzing import corpus
from benchmarks.fuzzing.kind import Kind, Outcome
from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.pool import Pool
from benchmarks.fuzzing.report import Report
from benchmarks.fuzzing.worker import Task
from utils.cli import number, positive
from utils.errors import run_script

CASES = 20_000


def main(args: argparse.Namespace) -> Report:
    """Try the corpus, then new inputs; write the report, exit with 1 where there are failures."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that are started
    kinds = {name: KINDS[name] for name in args.kinds or KINDS}
    began = time.monotonic()
    report = run(args, kinds, began + 60 * args.minutes if args.minutes else float("inf"))
    out = Path(args.out)
    report.write(out, time.monotonic() - began)
    print(
        f"{report.table()}\n\n{report.places() if report.failures else 'no failures'}\n\n"
        f"{len(report.outcomes)} inputs in {time.monotonic() - began:.0f} s; {out / 'fuzz.md'}, {out / 'fuzz.json'}"
    )
    if report.failures:
        sys.exit(1)
    return report


def run(args: argparse.Namespace, kinds: Mapping[str, Kind], until: float) -> Report:
    """All cases; each failure is printed at once and kept."""
    report, kept = Report(), Path(args.corpus or Path(args.out) / "corpus")
    work = Path(args.out) / "work"
    shutil.rmtree(work, ignore_errors=True)

    def report_outcome(outcome: Outcome, folder: Path) -> None:
        report.add(outcome)
        if outcome.failed:
            if not outcome.corpus:
                corpus.keep(outcome, folder, kept)
            print(f"{outcome.case}: {outcome.result} in {outcome.place}: {outcome.text[:160]!r}", flush=True)
        if len(report.outcomes) % 500 == 0:
            print(f"{len(report.outcomes)} inputs, {len(report.failures)} failures", flush=True)

    try:
        Pool(dict(kinds), work, args.jobs).run(tasks(args, kinds, kept), report_outcome, until)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def tasks(args: argparse.Namespace, kinds: Mapping[str, Kind], kept: Path) -> Iterator[Task]:
    """The corpus, then `--cases` new inputs, the kinds taking turns by their weights."""
    for kind, seed, case, file in corpus.cases(kept):
        if kind in kinds:
            yield Task(kind, seed, case, file)
    done = Counter()
    for _ in range(args.cases):
        name = min(kinds, key=lambda k: (done[k] + 0.5) / kinds[k].weight)
        yield Task(name, args.seed, done[name])
        done[name] += 1


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--kinds", nargs="+", choices=list(KINDS), help="default: all")
    add("--cases", type=number(int, 0), default=CASES, help=f"new inputs, over all kinds; default {CASES}")
    add("--minutes", type=number(float, 0), default=0, help="start no input after this time; 0: all of --cases")
    add("--seed", type=number(int, 0), default=0, help="seed of the inputs")
    add("--jobs", type=positive, default=2, help="number of processes")
    add("--corpus", default="", help="folder of failed inputs; default: corpus in --out")
    add("--out", default="runs/fuzz", help="folder of the report")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
