"""Run published rows and compare: `python -m benchmarks.reproduce ROW`, or `all`; --list shows them.

A row is a file in cfg/reproduce. It is trained and evaluated by train.py and val.py where its data and GPUs are, goes
on where it was interrupted, and is written down as reproduced or contradicted in `reproduce.json`, from which the
tables of docs/reproduce.md are made. --check trains ten steps of a row on a few images instead.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.record import PROJECT, Section
from benchmarks.reproduce.check import as_checked, check
from benchmarks.reproduce.commands import (
    Place,
    obstacles,
    processes_for,
    run_command,
    shown_command,
    train_command,
    val_command,
)
from benchmarks.reproduce.compare import SUBMITTED, measured_in, verdict
from benchmarks.reproduce.page import write_list, write_page
from benchmarks.reproduce.rows import Row, known_rows, read_row
from utils.cli import positive
from utils.device import select_device
from utils.errors import UserError, run_script
from utils.files import write_bytes

PAGE, RESULTS = PROJECT / "docs" / "reproduce.md", PROJECT / "benchmarks" / "results"
ALL = "all"


def main(args: argparse.Namespace) -> None:
    """Do what is asked for with each row; what a row lacks is told, and fails the command after the last one."""
    everything = [read_row(name) for name in known_rows()]
    place = Place(Path(args.work).resolve(), Path(args.data_root) if args.data_root else None, Path(args.weights_root),
                  args.device.strip().lower())
    first = select_device(place.devices[0]) if place.devices else torch.device("cpu")
    out = Path(args.out)
    results, checks = (Section(out, name, False, first) for name in ("reproduce", "reproduce_check"))
    if args.list:
        print(write_list(everything, results.pieces))
        return
    rows = chosen(args.rows, everything)
    if not rows and not args.write:
        raise UserError("which row? give names, `all`, or --list to see them", "missing-row")
    failed = []
    for row in rows:
        try:
            if args.check:
                run_check(row, place, checks, args)
            elif args.dry_run:
                print(plan(row, place))
            else:
                reproduce(row, place, results, args.retry)
        except UserError as error:
            failed.append(row.name)
            print(f"{row.name}: {error}", flush=True)
    if not args.dry_run:
        page = Path(args.page)
        text = write_page(page.read_text(encoding="utf-8"), everything, results.pieces, checks.pieces)
        write_bytes(page, text.encode())
    if failed:
        raise UserError(f"{len(failed)} of {len(rows)} rows could not be {'checked' if args.check else 'run'}: "
                        f"{', '.join(failed)}", "check-failed")


def chosen(names: list[str], everything: list[Row]) -> list[Row]:
    """The rows of these names, each once."""
    if ALL in names:
        return everything
    known = {row.name: row for row in everything}
    return [known.get(name) or read_row(name) for name in dict.fromkeys(names)]


def plan(row: Row, place: Place) -> str:
    """What a row lacks, how it would be judged, and the commands that would run it."""
    facts = [f"  lacks {sentence}" for sentence in obstacles(row, place)]
    hours = f"; time as published: {row.hours}" if row.hours else ""
    facts.append(f"  processes: {processes_for(row, place)} here, {row.processes} as published{hours}")
    if row.comparable and not row.server:
        allowed = ", ".join(f"{name} {row.tolerance[name]:g}" for name in row.published)
        facts.append(f"  tolerance: {allowed}. {row.reason}")
    commands = [train_command(row, number, place) for number in range(len(row.stages))]
    commands.append(val_command(row, place))
    return "\n".join([row.name, *facts, *(f"  {shown_command(words)}" for words in commands if words)])


def reproduce(row: Row, place: Place, results: Section, retry: bool) -> None:
    """Train, evaluate, compare, write down. Raises `UserError` with all that is missing before anything is run."""
    done = results.pieces.get(row.name)
    if done and done["key"] == row.key and not retry:
        print(f"{row.name}: {done['status']} on {done['date'][:10]}; --retry runs it again")
        return
    lacking = obstacles(row, place)
    if lacking:
        raise UserError("not run. " + "; ".join(lacking), "missing-prerequisite")
    began, commands = time.monotonic(), []
    for number in range(len(row.stages)):
        words = train_command(row, number, place)
        if words:
            run_command(words)
            commands.append(shown_command(words))
    words = val_command(row, place)
    run_command(words)
    if row.server:
        piece = {"status": SUBMITTED, "measured": {}, "published": row.published}
    else:
        piece = verdict(row, measured_in(place.evaluation(row), row, place.data(row)))
    piece |= {"key": row.key, "processes": processes_for(row, place), "published_processes": row.processes,
              "commands": [*commands, shown_command(words)]}
    results.add(row.name, piece, time.monotonic() - began)
    told = ", ".join(f"{name} {value:.2f} ({piece['differences'][name]:+.2f})" for name, value in
                     piece["measured"].items() if name in row.published)
    print(f"{row.name}: {piece['status']}{': ' if told else ''}{told}", flush=True)


def run_check(row: Row, place: Place, checks: Section, args: argparse.Namespace) -> None:
    """Ten steps; rows of the same trainings are checked once. Raises `UserError`, after writing it down, on failure."""
    own = as_checked(row, args.data)
    same = {"key": own.key, "batch": args.batch_size}
    known = None if args.retry else next((piece for piece in checks.pieces.values() if "error" not in piece and all(
        piece.get(key) == value for key, value in same.items())), None)
    began = time.monotonic()
    try:
        piece = known or check(own, place, args.imgsz, args.batch_size)
    except UserError as error:
        checks.add(row.name, {"error": str(error).replace(f"{PROJECT}/", ""), **same}, time.monotonic() - began)
        raise
    if checks.pieces.get(row.name) is not known or known is None:
        checks.add(row.name, piece, piece.get("seconds", time.monotonic() - began))
    print(f"{row.name}: {piece['train_seconds']:.0f} s, losses "
          f"{', '.join(f'{k} {v:.3g}' for k, v in piece['trainings'][-1]['losses'].items())}", flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="names of files in cfg/reproduce, paths of such files, or `all`")
    add("--list", action="store_true", help="show all rows with their published numbers and status")
    add("--check", action="store_true", help="ten steps on a few images at a small size, instead of the training")
    add("--dry-run", action="store_true", help="show what is missing and the commands; run nothing")
    add("--write", action="store_true", help="only write the tables of the page")
    add("--retry", action="store_true", help="run rows again that are written down")
    add("--device", default="", help="GPUs, one process each: 0,1; or cpu; default: all, up to the published number")
    add("--data-root", default="", help="folder that holds coco, VOCdevkit, ...; default: as cfg/data says")
    add("--weights-root", default="weights", help="folder of the weights that rows start from (default weights)")
    add("--data", default="", help="--check: another small data set in COCO's or VOC's form")
    add("--imgsz", type=positive, default=128, help="--check: pixels (default 128); models of one size keep theirs")
    add("--batch-size", type=positive, default=2, help="--check: images of a step (default 2)")
    add("--work", default="runs/reproduce", help="folder of the trainings (default runs/reproduce)")
    add("--out", default=str(RESULTS), help="folder of reproduce.json and reproduce_check.json")
    add("--page", default=str(PAGE), help="page whose tables are written (default docs/reproduce.md)")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
