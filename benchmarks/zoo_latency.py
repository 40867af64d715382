"""Milliseconds per image of the zoo on a CPU: python -m benchmarks.zoo_latency, then python -m benchmarks.zoo

Inference with decoding, without NMS, one image of the model's own frame or 640 px, 2 threads, untrained weights: by
PyTorch, and by onnxruntime of the ONNX file. Each model is written down when it is done, so a run that is ended goes on
where it was.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

import torch

from benchmarks.record import PROJECT, Section
from engine.export.config import ExportConfig
from engine.export.export import export
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.open import load_runtime
from models import build_model, known_models
from models.summary import summarise
from utils.cli import positive
from utils.errors import UserError, run_script

NAME, SIZE, MOST, CALLS, THREADS = "zoo_latency_cpu", 640, 60.0, 3, 2
NECKS = ("", "-assn")


def frame_of(name: str) -> tuple[tuple[int, int], float]:
    """The size that a model is timed at, and its GFLOPs there; nothing is computed."""
    with torch.device("meta"):
        model = build_model(name)
    size = model.frame.up(model.frame.round(model.frame.size or [SIZE], name))
    return size, sum(line.flops for line in summarise(model, size)) / 1e9


def milliseconds(runtime: Runtime, image: torch.Tensor) -> float:
    """Median of `CALLS` calls after one."""
    spent = []
    for _ in range(CALLS + 1):
        began = time.perf_counter()
        runtime.predict(image)
        spent.append(1e3 * (time.perf_counter() - began))
    return median(spent[1:])


def measure(name: str, size: tuple[int, int]) -> dict[str, float | list[int]]:
    """A model by PyTorch and, where it can be exported, by onnxruntime."""
    torch.manual_seed(0)
    model, image = build_model(name).eval(), torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    row: dict[str, float | list[int]] = {"size": list(size)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export(model, path, ExportConfig(weights="model.pt", include=("onnx",), imgsz=size))
            row["onnx"] = milliseconds(load_runtime(path, "cpu"), image)
        except UserError as error:
            print(f"{name}: {error}")
    row["torch"] = milliseconds(TorchRuntime(Path(name), model, torch.device("cpu"), half=False), image)
    return row


def main(args: argparse.Namespace) -> None:
    """Time every model of at most `--gflops` that is not timed yet, as long as there are minutes left."""
    torch.set_num_threads(THREADS)
    began = time.monotonic()
    section = Section(Path(args.out), NAME, False, torch.device("cpu"))
    for name in [model + neck for neck in NECKS for model in known_models()]:
        if name in section.pieces:
            continue
        size, gflops = frame_of(name)
        if gflops > args.gflops:
            continue
        if time.monotonic() - began > 60 * args.minutes:
            print(f"{args.minutes} minutes are over before {name}; the same command goes on")
            return
        started = time.monotonic()
        row = measure(name, size)
        section.add(name, row, time.monotonic() - started)
        print(f"{name} at {size[0]} x {size[1]}: {row['torch']:.1f} ms, ONNX {row.get('onnx', float('nan')):.1f} ms")


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo_latency", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--gflops", type=float, default=MOST, help=f"of the largest model that is timed (default {MOST:g})")
    add("--minutes", type=positive, default=12, help="no further model is begun after so many (default 12)")
    add("--out", default=str(PROJECT / "benchmarks/results"), help="folder of the results")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
