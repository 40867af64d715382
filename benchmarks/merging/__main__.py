"""Time of merging the boxes of a crowded image: `python -m benchmarks.merging`

20,000 boxes around 2,000 objects of 10 to 60 px; suppression (NMS), merging (NMM) and weighted fusion (WBF). With
`--peer PYTHON`, a Python that has SAHI, its functions run in turn with ours, and the boxes are compared.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.measure import add_page_flags, heading, write_page
from benchmarks.record import PROJECT, table
from benchmarks.turns import Program, Row
from engine.inference.merging.fusion import wbf
from engine.inference.merging.suppress import nmm, nms
from utils.cli import positive
from utils.errors import UserError, run_script

METHODS = [("nms", "iou"), ("nms", "ios"), ("greedy", "ios"), ("nmm", "ios"), ("wbf", "iou")]
TITLES = {"nms": "NMS", "greedy": "greedy NMM", "nmm": "NMM", "wbf": "WBF"}
SECONDS = 300.0  # for an answer of the peer


def crowd(count: int, extent: float, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """boxes (count, 4) xyxy, scores, labels: ten boxes for each object on average, shifted and scaled by an eighth."""
    rng = np.random.default_rng(0)
    objects = max(count // 10, 1)
    centre = rng.random((objects, 2)) * extent
    side = np.exp(rng.uniform(np.log(10), np.log(60), (objects, 2)))
    label = rng.integers(0, classes, objects)
    which = rng.integers(0, objects, count)
    middle = centre[which] + rng.normal(0, 1 / 8, (count, 2)) * side[which]
    size = side[which] * np.exp(rng.normal(0, 1 / 8, (count, 2)))
    boxes = np.concatenate((middle - size / 2, middle + size / 2), 1).clip(0, extent).astype(np.float32)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[keep].astype(np.float64), rng.random(count).astype(np.float32)[keep].astype(np.float64), label[
        which][keep]


def ours(method: str, metric: str, scene: tuple) -> np.ndarray:
    """(M, 6) boxes, scores, labels."""
    if method == "nms":
        keep = nms(*scene, metric, 0.5)
        return np.concatenate((scene[0][keep], scene[1][keep, None], scene[2][keep, None]), 1)
    found = wbf(*scene) if method == "wbf" else nmm(*scene, metric, 0.5, greedy=method == "greedy")
    return np.concatenate((found.boxes, found.scores[:, None], found.labels[:, None]), 1)


def measure(scene: tuple, rounds: int, peer: Program | None) -> list[Row]:
    """A row for each method: median milliseconds of each side, in turn."""
    rows = []
    for method, metric in METHODS:
        asks = peer is not None and (method != "wbf" or peer.facts["ensemble_boxes"])
        seconds, answers = [], []
        ours(method, metric, scene)
        for _ in range(rounds):
            found, spent = timed(lambda method=method, metric=metric: ours(method, metric, scene))
            seconds.append(spent)
            if asks:
                answers.append(peer.ask(f"{method} {metric}", SECONDS))
        row = {"method": method, "metric": metric, "ours": median(seconds), "count": len(found)}
        if asks:
            row |= {key: median(answer[key] for answer in answers) for key in ("seconds", "whole")}
            row["differing"] = differing(found, np.load(answers[-1]["file"]))
        rows.append(row)
        print(row)
    return rows


def timed(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What a call returns, and its seconds of CPU time, which other programs disturb less than the clock."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """How many rows have no equal in the other set, to a hundredth of a pixel: float32 and float64 differ by less."""
    from scipy.spatial import cKDTree

    far = [int((cKDTree(one).query(other)[0] > 0.01).sum()) for one, other in ((a, b), (b, a))]
    return max(*far, abs(len(a) - len(b)))


def make_page(rows: list[Row], scene: tuple, args: argparse.Namespace, facts: Row | None) -> str:
    """The table as Markdown."""
    text = heading("Merging the boxes of a crowded image", torch.device("cpu"), args.small)
    head, peers = ["method", "overlap", "boxes left", "ours, ms"], []
    if facts:
        head += ["peer, ms", "peer with its objects, ms", "boxes that differ"]
        peers = ["", f"Peers: SAHI {facts['sahi']}, backend {facts['backend']}, float32; for WBF ensemble-boxes. "
                 "`peer` is the function that finds which boxes to keep or merge; `with its objects` is SAHI's "
                 "postprocess class, with which ours should be compared, since it gives merged boxes."]
    cells = [[TITLES[r["method"]], {"iou": "IoU", "ios": "IoS"}[r["metric"]], f"{r['count']:,}",
              f"{1e3 * r['ours']:.0f}",
              *([f"{1e3 * r['seconds']:.0f}", f"{1e3 * r['whole']:.0f}", str(r["differing"])] if "seconds" in r
                else ["-"] * 3 * bool(facts))] for r in rows]
    text += [f"{len(scene[0]):,} boxes around objects of 10 to 60 px in an image of {args.extent} px, "
             f"{args.classes} class(es); milliseconds of CPU time, medians of {args.rounds} rounds in turn.",
             *peers, "", *table(head, cells)]
    return "\n".join(text) + "\n"


def main(args: argparse.Namespace) -> None:
    """Measure, then write the table."""
    if args.small:
        args.boxes, args.extent = 500, 600
    scene = crowd(args.boxes, args.extent, args.classes)
    peer, python = None, shutil.which(args.peer) if args.peer else None
    if args.peer and python is None:
        raise UserError(f"--peer {args.peer}: no such program; benchmarks/README.md tells how to install it",
                        code="missing-file")
    with tempfile.TemporaryDirectory() as folder:
        try:
            if python:
                file = Path(folder) / "scene.npz"
                np.savez(file, boxes=scene[0], scores=scene[1], labels=scene[2])
                script = PROJECT / "benchmarks" / "merging" / "peer_sahi.py"
                peer = Program("SAHI", [str(Path(python).absolute()), str(script)], {"scene": str(file)})
                peer.start(Path(folder))
                peer.wait_ready(SECONDS)
            rows = measure(scene, args.rounds, peer)
        finally:
            if peer:
                peer.stop()
    write_page("merging", torch.device("cpu"), args, make_page(rows, scene, args, peer and peer.facts))


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merging", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--peer", default="", metavar="PYTHON", help="a Python that has sahi (and ensemble-boxes) installed")
    add("--boxes", type=positive, default=20_000, help="boxes to merge")
    add("--extent", type=positive, default=4000, help="pixels of a side of the image")
    add("--classes", type=positive, default=1, help="classes")
    add("--rounds", type=positive, default=5, help="calls of each")
    add_page_flags(add, "merging")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
