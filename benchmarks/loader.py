"""How fast is the training loader beside a peer's? `python -m benchmarks.loader --peer ultralytics`

Both sides make the same batches (decode, mosaic, affine, HSV, flip, uint8 tensors) of the same image files, each in
processes of its own that take turns epoch by epoch. Uncached, each of our rounds begins with nothing decoded, as an
epoch of a large dataset does (the peer may keep what its own buffer holds); RAM-cached, all images are in memory. What
counts is images per CPU-second, of the process and its workers together: a training's own cores are not idle.

The peer is never a dependency of this project; benchmarks/README.md tells how to install it beside it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.peers import add_peer_flags, find_peer, yolo_row, yolo_rows
from benchmarks.record import PROJECT, last_line, stamp, table
from benchmarks.turns import Program, Row
from data import load_index
from data.augment.policies import POLICIES
from data.images.headers import read_header
from engine.inference.sources import is_image
from utils.cli import number, positive
from utils.errors import UserError, run_script

CACHES = {"uncached": None, "RAM-cached": "ram"}
WORKERS, SMALL_WORKERS = (0, 1, 2), (1,)
ROUNDS, SMALL_ROUNDS = 5, 1
IMAGES, SMALL_IMAGES = 1600, 8  # of an epoch: images are copied until there are so many
BOXES = 7  # drawn for an image that comes without labels
PATIENCE = 1800.0  # seconds for an answer: epochs may be long


def main(args: argparse.Namespace) -> None:
    """Measure while the time lasts, then write the tables."""
    deadline = time.monotonic() + 60 * args.minutes
    python = find_peer(args)
    if python and args.policy != "yolo":
        raise UserError(f"--peer {args.peer} has no policy {args.policy}: drop one of the two", code="flag-conflict")
    imgsz, count = (64, SMALL_IMAGES) if args.small else (args.imgsz, args.count)
    rounds = args.rounds or (SMALL_ROUNDS if args.small else ROUNDS)
    out = Path(args.out) if args.out else PROJECT / ("runs/loader" if args.small else "benchmarks/results")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        base = {**lay_out(work, args, count), "imgsz": imgsz, "batch": min(args.batch_size, count),
                "policy": args.policy}
        result: Row = {"imgsz": imgsz, "batch": base["batch"], "images": count, "source": args.images or args.data,
                       "policy": args.policy, "small": args.small, **stamp(torch.device("cpu")), "pieces": {}}
        result["profile"] = profile(work, base)
        print(told(result["profile"]))
        for workers in SMALL_WORKERS if args.small else WORKERS:
            for kind, cache in CACHES.items():
                if time.monotonic() > deadline:
                    print(f"--minutes {args.minutes:g} are over: {kind}, {workers} workers, is left out")
                    continue
                key = f"{kind}, {workers} workers"
                sides = make_sides({**base, "cache": cache, "workers": workers}, python, args.peer)
                result["pieces"][key] = measure(sides, work / f"{kind}-{workers}", rounds)
                for row in result["pieces"][key]:
                    print(f"{key}: {row['name']}: {row['per_cpu_second']:.0f} images per CPU-second, "
                          f"{row['per_second']:.0f} per second")
    out.mkdir(parents=True, exist_ok=True)
    (out / "loader_cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "loader_cpu.md").write_text(write_page(result), encoding="utf-8")
    print(f"the tables are in {out / 'loader_cpu.md'}")


def make_sides(config: Row, python: str, peer: str) -> list[Program]:
    """Who takes part, the peer first."""
    sides = [Program("ours", [sys.executable, "-m", "benchmarks.loading.ours"], config)]
    if python:
        script = PROJECT / "benchmarks" / "loading" / f"peer_{peer}.py"
        sides.insert(0, Program(peer, [python, str(script)], config))
    return sides


def measure(sides: list[Program], work: Path, rounds: int) -> list[Row]:
    """Epochs in turn; everybody's medians."""
    try:
        for side in sides:
            side.start(work)
            side.wait_ready(PATIENCE)  # one by one: each with the whole machine to itself
        for _ in range(rounds):
            for side in sides:
                side.rounds.append(side.ask("go", PATIENCE))
    finally:
        for side in sides:
            side.stop()
    return [summary(side) for side in sides]


def summary(side: Program) -> Row:
    """Medians over rounds."""
    per_cpu = [r["images"] / r["cpu"] for r in side.rounds]
    return {"name": side.name, **side.facts, "per_cpu_second": median(per_cpu), "slowest": min(per_cpu),
            "fastest": max(per_cpu), "per_second": median(r["images"] / r["wall"] for r in side.rounds),
            "rounds": len(side.rounds), "images": side.rounds[0]["images"]}


def profile(work: Path, base: Row) -> Row:
    """Where the time of one of our samples goes."""
    path = work / "profile.json"
    path.write_text(json.dumps({**base, "profile": True}), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "benchmarks.loading.ours", str(path)], cwd=PROJECT, text=True,
                         capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if run.returncode:
        raise UserError(f"the profile failed: {last_line(run.stderr)}", code="command-failed")
    return json.loads(run.stdout)


def told(found: Row) -> str:
    """The profile in one line."""
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in found["stages"].items())
    return (f"a sample, uncached: {found['sample']:.2f} ms of CPU ({stages}); decoding one file alone takes "
            f"{found['floor']:.2f} ms")


def lay_out(work: Path, args: argparse.Namespace, count: int) -> Row:
    """Copies of the images with labels in YOLO's format: what both sides read."""
    images, labels = work / "images" / "train", work / "labels" / "train"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    if args.images:
        sources, names = random_labels(Path(args.images)), [str(i) for i in range(BOXES)]
    else:
        index = load_index(args.data, "train", cache=False)
        sources, names = [(Path(r.path), yolo_rows(r)) for r in index.records], index.names
    for k in range(count):
        path, rows = sources[k % len(sources)]
        shutil.copyfile(path, images / f"{k:05d}{path.suffix}")
        (labels / f"{k:05d}.txt").write_text(rows, encoding="utf-8")
    data = work / "data.yaml"
    data.write_text(json.dumps({"path": str(work), "train": "images/train", "val": "images/train", "names": names}),
                    encoding="utf-8")
    return {"data": str(data), "images": str(images), "names": names}


def random_labels(folder: Path) -> list[tuple[Path, str]]:
    """The images of a folder with boxes drawn by chance, always the same."""
    paths = sorted(p for p in folder.rglob("*") if is_image(str(p)))
    if not paths:
        raise UserError(f"--images {folder}: no image there; give a folder of images", code="no-images")
    found = []
    for seed, path in enumerate(paths):
        try:
            read_header(str(path))
        except ValueError as error:  # reported before both sides fail on it
            raise UserError(f"{path}: {error}; remove it", code="corrupt-image") from None
        low, high = np.sort(np.random.default_rng(seed).uniform(0.05, 0.95, (2, BOXES, 2)), 0)
        rows = np.concatenate(((low + high) / 2, np.maximum(high - low, 0.01)), 1)
        found.append((path, "".join(yolo_row(k, row) for k, row in enumerate(rows))))
    return found


def write_page(result: Row) -> str:
    """The tables as Markdown."""
    versions = " / ".join(f"{k} {v}" for k, v in result["versions"].items())
    first = next(iter(result["pieces"].values()), [])
    programs = ", ".join(f"{row['program']} (torch {row['torch']}, OpenCV {row['opencv']})" for row in first)
    text = ["# The training loader on a CPU", "", f"`{result['command']}`, {result['date'][:10]}, {result['device']}, "
            f"{result['cores']} cores; {versions}.", "",
            f"Batches of {result['batch']} at {result['imgsz']} px of {result['images']} image files "
            f"({result['source']}): decode, geometry and colours of the policy {result['policy']}, to uint8 tensors. "
            f"{programs}; medians of alternating rounds of one epoch, (slowest to fastest). A round lasts until all "
            "workers rest: those of a peer may go on with the next epoch. Uncached: each of our rounds begins with "
            "nothing decoded."]
    if result["small"]:
        text += ["", "**Made with `--small`: tiny sizes that only show that the program runs.**"]
    rows = []
    for key, sides in result["pieces"].items():
        ours, peer = sides[-1], sides[0] if len(sides) > 1 else None
        cells = [span(peer) if peer else "-", span(ours),
                 f"**{ours['per_cpu_second'] / peer['per_cpu_second']:.2f}**" if peer else "-",
                 f"{peer['per_second']:.0f}" if peer else "-", f"{ours['per_second']:.0f}"]
        rows.append([key, *cells])
    head = ["", "peer, images per CPU-second", "ours", "ratio", "peer, images per second", "ours"]
    found = result["profile"]
    profile_rows = [[word, *(f"{v:.2f}" for v in (*found[stages].values(), found[whole], found[floor]))]
                    for word, stages, whole, floor in (("mean", "stages", "sample", "floor"),
                                                       ("median", "medians", "median_sample", "median_floor"))]
    text += ["", *table(head, rows), "", "## Where the time of one sample goes", "",
             f"Milliseconds of CPU a sample, over the batches of an epoch of {found['samples']} samples, uncached, in "
             "one process; decoding alone over the files. A mean that is far above its median tells of a busy machine.",
             "",
             *table(["", *found["stages"], "whole sample", "decoding one file alone"], profile_rows)]
    return "\n".join(text) + "\n"


def span(row: Row) -> str:
    """A median with its spread."""
    return f"{row['per_cpu_second']:.0f} ({row['slowest']:.0f} to {row['fastest']:.0f})"


def build_parser() -> argparse.ArgumentParser:
    """The flags; the module's text is the help."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_peer_flags(add)
    add("--data", default="coco-tiny", help="whose images: a name in cfg/data or a YAML")
    add("--images", default="", metavar="FOLDER", help="a folder of images instead, with random boxes")
    add("--policy", default="yolo", choices=tuple(POLICIES), help="augmentation, with its defaults; a peer has yolo's")
    add("--imgsz", type=positive, default=640, help="side of the frames in pixels")
    add("--batch-size", type=positive, default=16, help="images in a batch")
    add("--count", type=positive, default=IMAGES, help="images of an epoch: files are copied until there are so many")
    add("--rounds", type=positive, help=f"epochs of each side; default {ROUNDS}")
    add("--minutes", type=number(float, 0), default=30.0, help="start nothing after this time")
    add("--small", action="store_true", help="tiny sizes, to see that the program runs")
    add("--out", default="", help="folder of results; default benchmarks/results, with --small runs/loader")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
