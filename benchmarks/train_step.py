"""Training steps compared with a peer: `python -m benchmarks.train_step --peer ultralytics`; repeat to continue.

The loop of train.py and the peer's own trainer run on the same batch, in separate processes that alternate round by
round. benchmarks/README.md describes how to install the peer.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import add_peer_flags, find_peer
from benchmarks.record import PROJECT, Piece, Section
from benchmarks.steps.batches import NAMES, draw_data, save_batch
from benchmarks.steps.contest import compete, contender
from benchmarks.steps.table import EQUAL_THREADS, write_table
from benchmarks.turns import Program
from utils.cli import number, positive, worker_count
from utils.device import describe, select_device
from utils.errors import UserError, run_script

MODELS = ("yolov8n", "yolov8s")
SOURCES = {"cpu": ("resident",), "cuda": ("resident", "gpu", "workers")}
BATCHES = {"cpu": (8, 4), "cuda": (64, 128)}
ROUNDS = {"cpu": (5, 1), "cuda": (5, 40)}  # rounds, steps in each
NEEDED = {"cpu": 60.0, "cuda": 150.0}  # seconds without which no piece is begun
PREFETCH = 4  # batches that a worker holds ready, the peer's; ours holds 2
STEPS = 9000  # of the training that the rounds are part of: so few that both sides choose AdamW, never reached
EPOCH_BATCHES = 1000  # of a resident batch: in so long a warm-up both sides take a step after every batch
IMAGES, IMAGES_SMALL = 2048, 16
COPIES = 4  # of each for loader processes, so that epochs, at whose ends they may run dry, are not all too short


def main(args: argparse.Namespace) -> None:
    """Measure what is missing while the time lasts, then write the table and say what is left."""
    deadline = time.monotonic() + 60 * args.minutes
    device = select_device(args.device)
    python = find_peer(args)
    work = Path(args.work).resolve() / ("small" if args.small else "")
    out = Path(args.out) if args.out else work if args.small else PROJECT / "benchmarks" / "results"
    section = Section(out, f"train_step_{device.type}", args.small, device)
    plan = make_plan(args, device)
    print(f"on {describe(device)}; results in {out}")
    for key in plan:
        if key in section.pieces or deadline - time.monotonic() < (0 if args.small else NEEDED[device.type]):
            continue
        since = time.monotonic()
        section.add(key, measure(key, args, device, work, python), time.monotonic() - since)
        for row in section.pieces[key]["rows"]:
            told = row.get("failed") or (f"{row['images_per_s']:.1f} images/s, {row['cpu_s']:.2f} CPU-s a step, "
                                         f"{row['memory_gb']:.2f} GiB")
            print(f"{key}: {row['name']}: {told}")
    table = out / f"train_step_{device.type}.md"
    out.mkdir(parents=True, exist_ok=True)
    table.write_text(write_table(section, plan), encoding="utf-8")
    left = [key for key in plan if key not in section.pieces]
    print(f"{len(left)} pieces are left: run the same command again to go on; so far: {table}" if left
          else f"everything is done; the table is {table}")
    failed = [f"{key}: {row['failed']}" for key, piece in section.pieces.items() for row in piece["rows"]
              if "failed" in row]
    if failed:
        raise UserError(f"{len(failed)} did not run: {'; '.join(failed[:5])}; to try a piece again, take it out of "
                        f"{section.path}", code="check-failed")


def make_plan(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Keys of all pieces, `model batch N source`, those first that say most."""
    models, batches = args.models or MODELS, args.batches or BATCHES[device.type]
    sources = args.sources or SOURCES[device.type]
    if args.small:
        models, batches, sources = models[:1], [2], args.sources or SOURCES["cuda"]
    return [f"{model} batch {batch} {source}" for source in sources for batch in batches for model in models]


def contenders(key: str, args: argparse.Namespace, device: torch.device, work: Path, python: str) -> list[Program]:
    """Who takes part in a piece, the peer first. Where all images lie on our device, it loads with its workers."""
    model, _, batch, source, *only = key.split()
    imgsz, cpu = 64 if args.small else args.imgsz, device.type == "cpu"
    base = {"model": model, "batch": int(batch), "imgsz": imgsz, "source": source, "device": str(device),
            "names": NAMES, "threads": args.threads or torch.get_num_threads(), "optimizer": args.optimizer,
            "data": "", "workers": 0, "batches": EPOCH_BATCHES, "epochs": STEPS // EPOCH_BATCHES}
    if source == "resident":
        base["batch_file"] = str(work / f"batch{batch}-{imgsz}.npz")
        save_batch(Path(base["batch_file"]), int(batch), imgsz)
    else:
        base["workers"] = worker_count(args.workers, device.type)
        base |= with_data(work, imgsz, int(batch), image_count(args), COPIES)
    ours = {**base, "amp": "auto", "layout": "channels_last", "compile": False}
    if source == "gpu":
        ours |= with_data(work, imgsz, int(batch), image_count(args), 1)
    found = [contender("ours", ours)]
    if python:
        theirs = {**base, "source": "workers" if source == "gpu" else source, "force_threads": False}
        found.insert(0, contender(args.peer, theirs, python))
        if cpu and source == "resident":  # by itself it leaves a core free
            found.insert(1, contender(f"{args.peer}, {EQUAL_THREADS}", {**theirs, "force_threads": True}, python))
    if cpu and source == "resident":
        found += [contender("ours, fp32", {**ours, "amp": "fp32"}),
                  contender("ours, fp32 contiguous", {**ours, "amp": "fp32", "layout": "contiguous"})]
    if not cpu and source != "workers":
        found.append(contender("ours, compiled", {**ours, "compile": True}))
    return [one for one in found if not only or one.config.get("compile", False) == (only == ["compiled"])]


def image_count(args: argparse.Namespace) -> int:
    return args.images or (IMAGES_SMALL if args.small else IMAGES)


def with_data(work: Path, imgsz: int, batch: int, images: int, copies: int) -> dict[str, Any]:
    """The part of a configuration that says which images are read from the disk."""
    batches = math.ceil(images * copies / batch)
    return {"data": str(draw_data(work / "scenes", images, imgsz, copies)), "batches": batches,
            "epochs": STEPS // batches}


def measure(key: str, args: argparse.Namespace, device: torch.device, work: Path, python: str,
            until: float = float("inf")) -> Piece:
    """One piece: everybody's medians. until: when it must have ended, by time.monotonic; of keys
    with a fifth word `plain` or `compiled` only programs that do not, or do, compile take part."""
    rounds, steps = (1, 1) if args.small else ROUNDS[device.type]
    rounds, steps = args.rounds or rounds, args.steps or steps
    taking_part = contenders(key, args, device, work, python)
    config = taking_part[-1].config
    skip = PREFETCH * config["workers"] if config["workers"] and not args.small else 0  # ready before the clock began
    rows = compete(taking_part, work / key.replace(" ", "-"), rounds, steps, skip, until)
    return {"model": config["model"], "batch": config["batch"], "imgsz": config["imgsz"], "source": config["source"],
            "threads": config["threads"], "workers": config["workers"], "rows": rows}


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_peer_flags(add)
    add("--device", default="", help="'' takes the first GPU or else the CPU; cpu; 0, 1, ...")
    add("--minutes", type=number(float, 0), default=9.0, help="start nothing that may exceed this time")
    add("--small", action="store_true", help="tiny sizes, to see that the program runs")
    add("--models", nargs="+", help=f"default {' '.join(MODELS)}")
    add("--batches", nargs="+", type=positive, help="images per step; default 8 4 on a CPU, 64 128 on a GPU")
    add("--sources", nargs="+", choices=SOURCES["cuda"],
        help="where batches come from; default resident on a CPU; resident, gpu (--cache gpu) and workers on a GPU")
    add("--imgsz", type=positive, default=640, help="side of the images in pixels")
    add("--images", type=positive, help=f"how many are drawn for the loaders; default {IMAGES}")
    add("--optimizer", default="auto", choices=("auto", "SGD", "AdamW"), help="of both sides; auto: the choice of each")
    add("--threads", type=positive, help="of PyTorch on the CPU; default: its own choice")
    add("--workers", type=number(int, 0), help="processes that load images; default as in train.py")
    add("--rounds", type=positive, help="turns of each; default 5")
    add("--steps", type=positive, help="steps of a turn; default 1 on a CPU, 40 on a GPU")
    add("--out", default="", help="folder of results; default benchmarks/results, with --small WORK/small")
    add("--work", default="runs/train_step", help="folder of batches, images and logs")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # output is complete if the command is killed at a time limit
    run_script(main, build_parser())
