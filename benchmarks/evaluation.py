"""Seconds and memory of an evaluation, by engine: `python -m benchmarks.evaluation`

Made-up detections near made-up objects, the same for every engine; each engine runs in a process of its own, without
torch, on one thread, in turn. faster-coco-eval has a row where it is installed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.measure import add_page_flags, heading, write_page
from benchmarks.record import PROJECT, table
from utils.cli import positive
from utils.errors import run_script

WHAT = {"pycocotools": "pycocotools", "faster-coco-eval": "faster-coco-eval", "hotcoco": "hotcoco, bare",
        "adapter": "ours: the twelve numbers", "judge": "ours: all that val.py computes"}
CLASSES = 80


def main(args: argparse.Namespace) -> None:
    """Write the problem to a file, run every engine on it, and write the table."""
    images, per_image = (40, 20) if args.small else (args.images, args.detections)
    slow = 1 if args.small else args.rounds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, **problem(images, per_image))
        engines = [name for name in WHAT if name != "faster-coco-eval" or importlib.util.find_spec("faster_coco_eval")]
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
        for number in range(slow):
            for name in engines:
                if number == 0 or name != "pycocotools":
                    rounds[name].append(measure(name, path))
                    print(f"{WHAT[name]}: {rounds[name][-1]['wall']:.2f} s")
    write_page("evaluation", torch.device("cpu"), args, make_page(rounds, images, per_image, args))


def problem(images: int, per_image: int) -> dict[str, np.ndarray]:
    """Objects and detections as columns, about as many objects per image as COCO has."""
    random = np.random.default_rng(0)
    per = 7
    m, d = images * per, images * per_image
    boxes = np.concatenate((random.uniform(0, 500, (m, 2)), np.exp(random.uniform(1.5, 5.5, (m, 2)))), 1)
    labels = random.integers(0, CLASSES, m)
    of = random.integers(0, per, d) + np.repeat(np.arange(images), per_image) * per
    found = boxes[of] + random.normal(0, 0.15, (d, 4)) * boxes[of][:, [2, 3, 2, 3]]
    found[:, 2:] = np.abs(found[:, 2:]) + 0.1
    return {"n": np.array(images), "k": np.array(CLASSES), "image": np.repeat(np.arange(images), per), "label": labels,
            "boxes": boxes.round(2), "areas": boxes[:, 2] * boxes[:, 3] * 0.7, "crowd": random.random(m) < 0.01,
            "found_images": np.repeat(np.arange(images), per_image), "found_boxes": found.round(3),
            "found_labels": np.where(random.random(d) < 0.7, labels[of], random.integers(0, CLASSES, d)),
            "found_scores": random.random(d).round(5)}


def measure(engine: str, path: Path) -> dict[str, Any]:
    """One run of an engine in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluating.work", engine, str(path)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, env=environment)
    return json.loads(answer.stdout)


def make_page(rounds: dict[str, list[dict[str, Any]]], images: int, per_image: int, args: argparse.Namespace) -> str:
    """The table as Markdown."""
    bare = median(row["cpu"] for row in rounds["hotcoco"])
    reference = rounds["pycocotools"][0]["numbers"]
    rows = []
    for name, measured in rounds.items():
        cpu = median(row["cpu"] for row in measured)
        same = all(row["numbers"] == reference for row in measured)
        rows.append([WHAT[name], f"{median(row['wall'] for row in measured):.2f}", f"{cpu:.2f}", f"{cpu / bare:.2f}",
                     f"{max(row['peak'] for row in measured):.0f}", "equal" if same else "**different**"])
    text = heading("Evaluation on a CPU", torch.device("cpu"), args.small)
    text += [f"{images:,} images, {images * per_image:,} detections, {CLASSES} classes; one thread, each engine in its "
             f"own process without torch, from columns in memory (pycocotools and faster-coco-eval: from dicts that "
             f"were made before) to the twelve numbers. Medians of {args.rounds} runs in turn, pycocotools once; "
             "numbers are compared with those of pycocotools to the last bit.", "",
             *table(["engine", "s", "CPU s", "of hotcoco's", "peak MB of the process", "twelve numbers"], rows)]
    return "\n".join(text) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--images", type=positive, default=5000, help="images")
    add("--detections", type=positive, default=100, help="detections of each image")
    add("--rounds", type=positive, default=5, help="runs of each engine; pycocotools runs once")
    add_page_flags(add, "evaluation")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
