"""Does it work on this GPU, and how well? Run `python -m benchmarks.gpu_smoke` again to go on where it stopped.

The sections: the originals' numbers on the device; one training step against the CPU; mixed precision and
channels_last; trainings on BCCD. Each writes a JSON file under --out; gpu_smoke.md there is the table of them all.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.smoke import goldens, steps, training
from benchmarks.smoke.results import PROJECT, Piece, Section, write_table
from utils.cli import number, positive
from utils.device import describe, select_device
from utils.errors import UserError, run_script

SECTIONS = ("goldens", "steps", "speed", "training")
NEEDED = {"goldens": 20.0, "steps": 60.0, "speed": 45.0, "training": 40.0}  # seconds without which no piece is begun


def main(args: argparse.Namespace) -> None:
    """Do what is missing while the time lasts, then write the table and say what is left."""
    deadline = time.monotonic() + 60 * args.minutes
    if args.device != "cpu" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible here, and this program asks about GPUs: run it on a machine that "
                        "has one, or rehearse it with --small --device cpu")
    device = select_device(args.device)
    out = Path(args.out or (args.work + "/small" if args.small else PROJECT / "benchmarks" / "results"))
    sections = {name: Section(out, name, args.small, device) for name in SECTIONS}
    plans = make_plans(args)
    print(f"on {describe(device)}; results in {out}")
    failed: list[str] = []
    for name in args.only:
        if name == "training":
            jobs = min(args.jobs, max(len(plans[name]), 1))
            workers = min(8, max(1, (os.cpu_count() or 1) // jobs)) if args.workers is None else args.workers
            if deadline - time.monotonic() > needed(name, args):
                failed += training.measure(plans[name], sections[name], device, deadline, jobs, workers)
        else:
            measure_pieces(args, name, plans[name], sections[name], device, deadline)
    left = {name: [key for key in map(key_of, plans[name]) if key not in sections[name].pieces] for name in args.only}
    planned = {name: len(plan) for name, plan in plans.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_smoke.md").write_text(write_table(sections, planned), encoding="utf-8")
    conclude(sections, left, failed, out)


def make_plans(args: argparse.Namespace) -> dict[str, list]:
    """What each section consists of, asked for or not: names of pieces, or the trainings."""
    shared = Path(args.shared)
    folder = shared / "golden"
    if not folder.is_dir() and "goldens" in args.only:
        if not args.small:
            raise UserError(f"{folder}: the originals' numbers are not there; name the folder that holds golden/: "
                            "--shared PATH")
        print(f"{folder} is not here: the comparison with the originals is left out of this small run")
    wanted = "training" in args.only
    data = training.find_data(args.data, args.small, shared, Path(args.work)) if wanted else args.data
    return {"goldens": goldens.plan(args.small) if folder.is_dir() or not args.small else [],
            "steps": steps.plan(args.small), "speed": steps.plan_speed(args.small),
            "training": training.plan(training.SMALL if args.small else training.FULL, data, Path(args.work))}


def key_of(item: "str | training.Run") -> str:
    return item if isinstance(item, str) else item.key


def needed(section: str, args: argparse.Namespace) -> float:
    return training.GRACE if args.small else NEEDED[section]


def measure_pieces(args: argparse.Namespace, name: str, plan: list[str], section: Section, device: torch.device,
                   deadline: float) -> None:
    """The missing pieces of one section, one after the other while the time lasts."""
    how: dict[str, Callable[[str], Piece]] = {
        "goldens": lambda key: goldens.measure(key, Path(args.shared) / "golden", device),
        "steps": lambda key: steps.measure(key, device, args.small),
        "speed": lambda key: steps.measure_speed(key, device, args.small)}
    for key in plan:
        if key in section.pieces:
            continue
        if deadline - time.monotonic() < needed(name, args):
            return
        since = time.monotonic()
        section.add(key, how[name](key), time.monotonic() - since)
        wrong = [check["what"] for check in checks_of(section.pieces[key]) if not check["ok"]]
        print(f"{name}: {key}: {'; '.join(wrong) + ': DIFFERS' if wrong else 'ok'} ({time.monotonic() - since:.1f} s)")


def checks_of(piece: Piece) -> list[Piece]:
    """What a piece asserts: comparisons, and first losses that should be near that of fp32."""
    return [*piece.get("checks", []), *({**row, "what": f"loss in {row['setting']}"} for row in piece.get("rows", []))]


def conclude(sections: dict[str, Section], left: dict[str, list[str]], failed: list[str], out: Path) -> None:
    """Say what is done, what is left, and what is wrong. Raises `UserError` where a check does not hold."""
    table = out / "gpu_smoke.md"
    wrong = [f"{key}: {check['what']}" for section in sections.values() for key, piece in section.pieces.items()
             for check in checks_of(piece) if not check["ok"]]
    missing = sum(map(len, left.values()))
    if not missing:
        print(f"everything {'' if len(left) == len(SECTIONS) else 'asked for '}is done; the table is {table}")
    else:
        parts = ", ".join(f"{len(keys)} of {name}" for name, keys in left.items() if keys)
        print(f"{missing} pieces are left ({parts}): run the same command again to go on; so far: {table}")
    if wrong or failed:
        raise UserError(f"{len(wrong) + len(failed)} things are not as they should be: "
                        f"{'; '.join([*wrong, *failed][:5])}; see {table}")


def make_parser() -> argparse.ArgumentParser:
    """The flags; the module's text is the help."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_smoke", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="0", help="0, 1, ...: the GPU to ask about; cpu: rehearse")
    add("--minutes", type=number(float, 0), default=9.0, help="stop before so many minutes are over")
    add("--small", action="store_true", help="tiny sizes and built-in data, to see that the program runs")
    add("--out", default="", help="folder of results; default benchmarks/results, with --small WORK/small")
    add("--work", default="runs/gpu_smoke", help="folder of trainings under way; keep it to be able to go on")
    add("--data", default="", help="train on this instead of BCCD: a name in cfg/data or a YAML")
    add("--shared", default=str(PROJECT.parent / "shared"), help="folder that holds golden/ and data/bccd")
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    add("--jobs", type=positive, default=1, help="trainings side by side")
    add("--workers", type=number(int, 0), help="processes that load images for each; default: cores / jobs, at most 8")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # a command stopped at its limit has said all that it did
    run_script(main, make_parser())
