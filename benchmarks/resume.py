"""Does an interrupted training end with the weights of an uninterrupted one? `python -m benchmarks.resume`.

Small trainings are killed, signalled, run out of disk space or lose their checkpoint, are resumed with
`train.py --resume FOLDER` until they end, and compared bit for bit with an uninterrupted one: the weights in last.pt
and best.pt, and results.csv without its columns of time and memory.
"""

import argparse
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks.record import PROJECT, Piece, Section
from benchmarks.steps.interrupt import CASES, Place, Trial, interrupt_and_resume, train_whole
from benchmarks.steps.resume_page import write_page
from data import load_index
from utils.cli import number, positive
from utils.errors import UserError, run_script

PAGE = PROJECT / "docs" / "resume.md"
OPTIMIZERS = ("SGD", "Adam", "AdamW")
MOMENTS = {"kill": 20}  # of other cases: FEW
FEW = 3


def main(args: argparse.Namespace) -> None:
    """Do what is missing, write the page, and fail where a run did not end as the uninterrupted one."""
    work = Path(args.work).resolve()
    trials = make_trials(args)
    section = Section(work, "resume", args.small, torch.device("cpu"))
    missing = [trial for trial in trials if not section.pieces.get(trial.key, {}).get("ok")]
    if missing:
        place = prepare(work, args.small)
        for optimizer in sorted({trial.optimizer for trial in missing}):
            whole = train_whole(place, optimizer)
            print(f"{optimizer}, uninterrupted: {whole.seconds:.0f} s, {whole.began:.0f} s of them to begin")
            place.whole[optimizer] = whole
        run_all(missing, place, section, args.jobs)
    pieces = {trial.key: section.pieces[trial.key] for trial in trials if trial.key in section.pieces}
    page = Path(args.page) if args.page else work / "resume.md" if args.small else PAGE
    page.write_text(write_page(pieces), encoding="utf-8")
    wrong = [f"{key}: {piece['note']}" for key, piece in pieces.items() if not piece["ok"]]
    print(f"{len(pieces) - len(wrong)} of {len(trials)} interrupted trainings ended as the uninterrupted one; the "
          f"table is {page}")
    if wrong:
        raise UserError(f"{len(wrong)} did not: {'; '.join(wrong[:5])}", code="check-failed")


def make_trials(args: argparse.Namespace) -> list[Trial]:
    """Every case at its random moments, drawn from --seed."""
    trials = []
    for case in args.cases or CASES:
        count = args.moments or (1 if args.small else MOMENTS.get(case, FEW))
        count = max(count, len(OPTIMIZERS)) if case == "optimizers" else count  # each of them at least once
        for moment in range(count):
            rng = np.random.default_rng([args.seed, list(CASES).index(case), moment])
            # the case that is about optimisers has each in turn; others are about something else, so one will do
            optimizer = OPTIMIZERS[moment % len(OPTIMIZERS)] if case == "optimizers" else "SGD"
            trials.append(Trial(case, moment, optimizer, tuple(rng.random(8).tolist())))
    return trials


def prepare(work: Path, small: bool) -> Place:
    """Draw the data once, here, and not in each of the trainings at the same time."""
    work.mkdir(parents=True, exist_ok=True)
    data = work / "tiny.yaml"
    content = {"format": "shapes", "path": str(work / "shapes"), "train": 192, "val": 8, "test": 4,
               "size": 64, "seed": 0}
    data.write_text(yaml.safe_dump(content), encoding="utf-8")
    for split in ("train", "val"):
        load_index(data, split)
    return Place(work, data, epochs=3 if small else 4)


def run_all(trials: list[Trial], place: Place, section: Section, jobs: int) -> None:
    """All trials, `jobs` at a time, each written down when it is done."""
    with ThreadPoolExecutor(jobs) as pool:
        going: dict[Future[Piece], Trial] = {pool.submit(interrupt_and_resume, trial, place): trial for trial in trials}
        try:
            for done in as_completed(going):
                piece = done.result()
                section.add(going[done].key, piece, piece.pop("took"))
                print(f"{going[done].key}: {piece['interrupted']}; {piece['resumed']}: {piece['note']}")
        finally:
            for one in going:
                one.cancel()


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, help="default: all")
    add("--moments", type=positive, help=f"random moments of each case; default 20 of kill, {FEW} of others")
    add("--seed", type=number(int, 0), default=0, help="seed of the random moments")
    add("--jobs", type=positive, default=2, help="number of parallel trainings")
    add("--small", action="store_true", help="one moment of each case, shorter trainings; the page goes to --work")
    add("--page", default="", help="the page to write; default docs/resume.md")
    add("--work", default="runs/resume", help="folder of trainings and results; finished trials are not repeated")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
