"""Which change helps? Trains arms (flags of train.py) over seeds and compares them: means, intervals, costs.

    python -m benchmarks.ablate --cfg yolov8n --neck pan assn --data deeppcb --seeds 5 --epochs 30

Several values of a flag make a grid; --list takes rows of any flags; words behind -- go to all trainings. The same
command goes on where it was stopped; machines that share --storage and the folder share the runs.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks.ablate.latency import latencies
from benchmarks.ablate.plan import GRID, Plan, budget, grid, listed, make_plan, seeds_of
from benchmarks.ablate.report import make_report, write_report
from benchmarks.ablate.runs import Machine, Runner, epochs_of, record
from benchmarks.ablate.store import Store
from benchmarks.record import stamp
from engine.evaluation.comparison.bootstrap import RESAMPLES
from engine.training.study import without_password
from utils.cli import flag_of, number, positive
from utils.device import select_device
from utils.errors import UserError, run_script
from utils.parser import Parser
from utils.reporting.run_log import check_name
from utils.signals import StopRequest


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog="python -m benchmarks.ablate", description=__doc__)
    arms = parser.group("arms: several values of a flag make a grid")
    for name in GRID:
        arms.add_argument(flag_of(name), nargs="+", metavar="X", help=f"as train.py's {flag_of(name)}, one or more")
    arms.add_argument("--list", metavar="FILE", help="YAML with rows of train.py's flags below `arms:`, not a grid")
    arms.add_argument("--seeds", nargs="+", type=number(int, 0, 2**32 - 1), default=[3], metavar="N",
                      help="one number: so many; several: these; default 3")
    same = parser.group("the same for all arms")
    same.add_argument("--data", metavar="NAME", help="as train.py's")
    same.add_argument("--epochs", type=positive, metavar="N", help="as train.py's")
    same.add_argument("--imgsz", nargs="+", metavar="PX", help="as train.py's")
    same.add_argument("--batch-size", metavar="N", help="as train.py's")
    same.add_argument("--cache", choices=("ram", "disk", "gpu", "none"), help="as train.py's; default on a GPU: gpu")
    same.add_argument("train_flags", nargs="*", metavar="-- FLAGS", help="other flags of train.py, for all trainings")
    place = parser.group("where")
    place.add_argument("--project", default="runs/ablate", metavar="DIR", help="folder of ablations")
    place.add_argument("--name", default="exp", metavar="NAME", help="of this one; what is there goes on")
    place.add_argument("--storage", default="", metavar="URL", help="Optuna's database, for machines that share runs")
    place.add_argument("--study", default="", metavar="NAME", help="its name in the database; default --name")
    told = parser.group("report")
    told.add_argument("--report", action="store_true", help="train nothing: the tables of what is done so far")
    told.add_argument("--bootstrap", type=number(int, 0, 100_000), default=RESAMPLES, metavar="N",
                      help=f"resamples of the intervals; 0: none; default {RESAMPLES}")
    machine = parser.group("machine")
    machine.add_argument("--device", default="", metavar="D", help="as train.py's")
    machine.add_argument("--workers", type=number(int, 0, 1024), metavar="N", help="loader processes of each training")
    machine.add_argument("--jobs", type=positive, metavar="N",
                         help="trainings side by side; default: 1 on a CPU, what fits on a GPU")
    machine.add_argument("--threads", type=positive, metavar="N", help="threads of each training on a CPU")
    return parser


def plan_of(args: argparse.Namespace, device: torch.device) -> Plan:
    """The plan that the flags ask for. Raises `UserError` where an arm cannot be trained."""
    values = {name: getattr(args, name) for name in GRID if getattr(args, name)}
    if args.list and values:
        raise UserError(f"--list: names all arms; write {' '.join(map(flag_of, values))} into its rows, or behind --",
                        "flag-conflict")
    rows, notes = (listed(args.list), []) if args.list else grid(values)
    cache = args.cache or ("gpu" if device.type == "cuda" else "none")
    words = [*args.train_flags]
    for flag, value in (("--data", args.data), ("--epochs", args.epochs), ("--imgsz", args.imgsz),
                        ("--batch-size", args.batch_size), ("--cache", None if cache == "none" else cache)):
        if value is not None:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return make_plan(rows, words, seeds_of(args.seeds), notes)


def machine_of(args: argparse.Namespace, device: torch.device) -> Machine:
    """How this machine trains."""
    flags = ["--device", "cpu" if device.type == "cpu" else str(device.index or 0)]
    workers = args.workers if args.workers is not None else 1 if device.type == "cuda" else None
    flags += [] if workers is None else ["--workers", str(workers)]
    free = torch.cuda.mem_get_info(device)[0] / 2**30 if device.type == "cuda" else 0.0
    return Machine(device, args.jobs, args.threads, tuple(flags), free)


def open_store(args: argparse.Namespace, plan: Plan, folder: Path) -> Store:
    """The storage, which must be that of the same ablation."""
    store = Store(args.storage or f"sqlite:///{(folder / 'study.db').as_posix()}", args.study or args.name)
    cure = "give another --name for another ablation"
    store.same("data", plan.digest, f"the images or labels differ from those it was started on; {cure}")
    store.same("flags of all arms", list(plan.shared), cure)
    for arm in plan.arms:
        store.same(f"flags of {arm.name}", list(arm.words), cure)
    return store


class Status:
    """The line that says what is under way: over and over on a terminal, every five minutes elsewhere."""

    def __init__(self) -> None:
        self.terminal, self.due = sys.stdout.isatty(), 0.0

    def __call__(self, runner: Runner) -> None:
        if time.monotonic() < self.due or not runner.going:
            return
        self.due = time.monotonic() + (1 if self.terminal else 300)
        parts = [f"{going.run.key} {going.step} epoch {len(epochs_of(runner.folder, going.run))}"
                 for going in runner.going]
        text = f"{'; '.join(parts)} ({runner.counted()})"
        print(f"\r\033[K{text[:200]}\r" if self.terminal else text, end="" if self.terminal else "\n", flush=True)


def report(args: argparse.Namespace, plan: Plan, store: Store, folder: Path, device: torch.device) -> None:
    """Write and print the tables of all runs that are done."""
    results = store.results()
    if not results:
        return
    missing = len(plan.runs) - sum(run.key in results for run in plan.runs)
    ms = latencies(plan, folder, results, device, measure=not args.report and not missing)
    text = write_report(make_report(plan, folder, results, args.bootstrap, ms), folder)
    print(f"{text}{missing} of {len(plan.runs)} runs are not done\n" if missing else text, end="")
    print(f"table.txt, table.csv, table.tex, table.md, runs.json and AP.png in {folder}")


def main(args: argparse.Namespace) -> None:
    """Train and evaluate what is missing, then write the report."""
    check_name(args.name)
    device = select_device(args.device)
    plan = plan_of(args, device)
    folder = Path(args.project) / args.name
    folder.mkdir(parents=True, exist_ok=True)
    store = open_store(args, plan, folder)
    for line in (*plan.notes, budget(plan), f"{len(plan.arms)} arms x {len(plan.seeds)} seeds; results in {folder}"):
        print(line)
    if not args.report:
        train_all(args, plan, store, folder, device)
    report(args, plan, store, folder, device)


def train_all(args: argparse.Namespace, plan: Plan, store: Store, folder: Path, device: torch.device) -> None:
    """Train and evaluate what is missing; ends the program where it is stopped."""
    command = without_password(stamp(device)["command"])
    record(folder, {"event": "start", **stamp(device), "command": command, "data": plan.data,
                    "arms": {arm.name: list(arm.words) for arm in plan.arms}, "seeds": plan.seeds})
    with StopRequest("the trainings save themselves") as stopping:
        runner = Runner(plan, folder, store, machine_of(args, device))
        runner.work(stopping, Status())
    record(folder, {"event": "stop" if stopping.number else "end", "failed": runner.failed,
                    "left": [run.key for run in runner.waiting]})
    if stopping.number:
        print(f"stopped; to go on: {command}")
        sys.exit(stopping.code)
    for key, holder in store.holders().items():
        print(f"{key}: under way on {holder}")
    if runner.failed:
        raise UserError(f"{len(runner.failed)} runs failed, see the logs in {folder / 'train'}; the same command tries "
                        f"them again, and --report writes the tables of the others", "failed-runs")


if __name__ == "__main__":
    run_script(main, build_parser())
