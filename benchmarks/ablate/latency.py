"""Milliseconds per image of each arm: one process, fused models in turn, batch 1 at the size of training."""

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.ablate.plan import Plan
from engine.inference.runtimes.open import load_runtime
from utils.device import describe
from utils.files import write_bytes

ROUNDS, WARM_UP = 20, 3


def latencies(plan: Plan, folder: Path, results: dict[str, dict[str, Any]], device: torch.device,
              measure: bool) -> dict[str, float]:
    """Median milliseconds by arm: inference and decoding without NMS, as latency.json of the folder has it for this
    device; what is missing there is measured where asked for."""
    path, place = folder / "latency.json", describe(device)
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known: dict[str, float] = content.setdefault(place, {})
    files = {arm.name: folder / "train" / run.key / "weights" / "best.pt" for arm in plan.arms
             for run in reversed(plan.runs) if run.arm == arm and run.key in results}
    files = {name: file for name, file in files.items() if file.is_file()}
    if measure and files.keys() - known.keys():
        known.update(_measured(files, device))
        write_bytes(path, json.dumps(content, indent=1).encode())
    return known


def _measured(files: dict[str, Path], device: torch.device) -> dict[str, float]:
    name = "cpu" if device.type == "cpu" else str(device.index or 0)
    runtimes = {arm: load_runtime(file, name) for arm, file in files.items()}
    spent: dict[str, list[float]] = {arm: [] for arm in files}
    for _ in range(ROUNDS + WARM_UP):
        for arm, runtime in runtimes.items():
            size = runtime.frame.up(runtime.choose_size(None))
            image = torch.zeros((1, 3, *size), dtype=torch.uint8, device=device)
            _wait(device)
            began = time.perf_counter()
            runtime.predict(image)
            _wait(device)
            spent[arm].append(1e3 * (time.perf_counter() - began))
    return {arm: median(times[WARM_UP:]) for arm, times in spent.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
