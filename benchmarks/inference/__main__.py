"""What an image costs by stage, batch size and runtime: python -m benchmarks.inference [--peer ultralytics]

Pre-processing, inference and NMS of pictures in memory, in batches of 1 to 16, by PyTorch and by every format that
export.py writes and that is installed here; with --data its AP beside it. A table, a CSV and a picture.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

import numpy as np
import torch

from benchmarks.inference.clock import Stages, medians, time_batch
from benchmarks.inference.files import FORMS, average_precision, make, why_not
from benchmarks.inference.page import Row, draw, lines, write_csv
from benchmarks.measure import add_page_flags, heading, write_page
from benchmarks.peers import add_peer_flags, find_peer
from benchmarks.record import PROJECT
from benchmarks.turns import Program
from data.shapes.generate import Scene, render
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.open import load_runtime
from models import build_model
from utils.checkpoint import save_checkpoint
from utils.cli import positive
from utils.device import select_device
from utils.errors import run_script
from utils.select import SelectConfig

THRESHOLDS = SelectConfig(0.25, 0.45, 300)
PICTURE = (480, 640)
SECONDS = 600.0  # for an answer of the peer


def open_all(args: argparse.Namespace, device: torch.device, folder: Path) -> tuple[dict[str, Runtime], list[str]]:
    """The runtimes by name, and why others are left out."""
    weights = Path(args.weights)
    if not args.weights:
        torch.manual_seed(0)
        model, weights = build_model("yolov8n"), folder / "yolov8n.pt"
        save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, weights)
    place = "cpu" if device.type == "cpu" else str(device.index or 0)
    runtimes, notes = {}, []
    for form in FORMS:
        reason = why_not(form, args.data, device.type)
        path = None
        if not reason:
            path, reason = make(form, weights, args.imgsz, place, args.data, folder)
        if path is None:
            notes.append(f"{form.name}: {reason}")
        else:
            runtimes[form.name] = load_runtime(path, place, trust=True)
            print(f"{form.name}: {path}")
    return runtimes, notes


def measure(runtimes: dict[str, Runtime], peer: Program | None, pictures: list[np.ndarray],
            args: argparse.Namespace) -> list[Row]:
    """A row for each runtime and batch: medians of rounds in turn; a first round warms up."""
    rows = []
    for batch in args.batches:
        found: dict[str, list[Stages]] = {}
        for turn in range(args.rounds + 1):
            for name, runtime in runtimes.items():
                spent = time_batch(runtime, pictures[:batch], runtime.choose_size([args.imgsz]), THRESHOLDS)
                found.setdefault(name, []).extend([spent] * (turn > 0))
            if peer:
                spent = peer.ask(str(batch), SECONDS)
                found.setdefault(peer.name, []).extend([spent] * (turn > 0))
        rows += [{"runtime": name, "batch": batch, **medians(rounds)} for name, rounds in found.items()]
        print(*lines(rows[-len(found):])[2:], sep="\n")
    return rows


def start_peer(args: argparse.Namespace, python: str, pictures: list[np.ndarray], device: torch.device,
               folder: Path) -> Program:
    """The peer's prediction, ready to answer."""
    np.save(folder / "pictures.npy", np.stack(pictures))
    config = {"weights": args.peer_weights, "pictures": str(folder / "pictures.npy"), "imgsz": args.imgsz,
              "device": "cpu" if device.type == "cpu" else str(device.index or 0), "conf": THRESHOLDS.conf,
              "iou": THRESHOLDS.iou}
    script = PROJECT / "benchmarks" / "inference" / "peer_ultralytics.py"
    peer = Program("Ultralytics, PyTorch", [python, str(script)], config, torch.get_num_threads())
    peer.start(folder)
    return peer


def main(args: argparse.Namespace) -> None:
    """Measure, then write page, CSV and picture."""
    if args.small:
        args.imgsz, args.batches, args.rounds = 64, [1, 2], 1
    python, device = find_peer(args), select_device(args.device)
    pictures = [render(0, "val", number, PICTURE, Scene())[0] for number in range(max(args.batches))]
    peer = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtimes, notes = open_all(args, device, folder)
        try:
            if python:
                peer = start_peer(args, python, pictures, device, folder)
                peer.wait_ready(SECONDS)
            rows = measure(runtimes, peer, pictures, args)
        finally:
            if peer:
                peer.stop()
        if args.data:
            place = "cpu" if device.type == "cpu" else str(device.index or 0)
            scores = {name: average_precision(runtime.path, args.imgsz, place, args.data, folder)
                      for name, runtime in runtimes.items()}
            rows = [row | ({"AP": scores[row["runtime"]]} if row["runtime"] in scores else {}) for row in rows]
    out = Path(args.out) if args.out else PROJECT / ("runs/inference" if args.small else "benchmarks/results")
    title = f"{Path(args.weights).name if args.weights else 'YOLOv8n, untrained'} at {args.imgsz}"
    version = [f"The peer is Ultralytics {peer.facts['version']}."] if peer else []
    text = [f"{title}: milliseconds per image, medians of {args.rounds} rounds in turn after one; pictures of "
            f"{PICTURE[0]} x {PICTURE[1]} in memory, padded as little as the file allows. TorchScript and TensorRT "
            "files are bound to one image at a time and to square frames. "
            + (f"AP on {args.data}, by val.py." if args.data else ""), *version, "",
            *lines(rows), "", *(f"- not measured: {note}" for note in notes), "",
            f"![milliseconds per image](inference_{device.type}.png)", ""]
    write_page("inference", device, args, "\n".join(heading("Inference by runtime", device, args.small) + text))
    write_csv(rows, out / f"inference_{device.type}.csv")
    draw(rows, title, out / f"inference_{device.type}.png")


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_peer_flags(add)
    add("--weights", default="", metavar="FILE", help="checkpoint (.pt); default: an untrained YOLOv8n")
    add("--peer-weights", default="", metavar="FILE", help="the peer's; default: an untrained YOLOv8n")
    add("--data", default="", help="data set: AP of each file, and pictures to calibrate int8 on")
    add("--imgsz", type=positive, default=640, help="pixels of the longer side")
    add("--batches", type=positive, nargs="+", default=[1, 2, 4, 8, 16], metavar="N", help="batch sizes")
    add("--rounds", type=positive, default=10, help="times that each is measured")
    add("--device", default="cpu", help="cpu; 0, 1, ...")
    add_page_flags(add, "inference")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
