"""What benchmarks of single functions share: seconds of forms in turn, peaks of memory, and the head of their pages."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import PROJECT, stamp
from engine.training.autobatch import meter_of
from utils.errors import UserError

Row = dict[str, Any]


def clock(device: torch.device) -> float:
    """Seconds of this process's work on a CPU, of a GPU's once it is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def time_forms(forms: Mapping[str, Callable[[], Tensor]], backward: Callable[[Tensor], object], rounds: int,
               device: torch.device) -> dict[str, tuple[float, float]]:
    """Median seconds of the forward and the backward of each form, in turn; one more round warms up."""
    seconds: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
    for _ in range(rounds + 1):
        for form, forward in forms.items():
            began = clock(device)
            found = forward()
            computed = clock(device)
            backward(found)
            seconds[form].append((computed - began, clock(device) - computed))
    return {form: tuple(median(values) for values in zip(*pairs[1:], strict=True)) for form, pairs in seconds.items()}


def extra_memory(work: Callable[[], object], device: torch.device) -> float:
    """MiB that `work` takes at its peak, above what was held before."""
    meter = meter_of(device)
    if meter is None:
        raise UserError("the memory of a process cannot be read on this system; run this on Linux",
                        code="unsupported-platform")
    held = meter.peak(lambda: None)
    return (meter.peak(work) - held) / 2**20


def in_own_process(module: str, *words: str) -> Row:
    """What a benchmark answers in a process of its own, where the peak of memory is that of nothing else."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    return json.loads(subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout)


def add_page_flags(add: Callable[..., object], name: str) -> None:
    """`--small` and `--out` of a benchmark whose page `write_page` writes, by a parser's `add_argument`."""
    add("--small", action="store_true", help="tiny sizes, to see that the program runs")
    add("--out", default="", help=f"folder of results; default benchmarks/results, with --small runs/{name}")


def write_page(name: str, device: torch.device, args: argparse.Namespace, page: str) -> None:
    """Write a page to the folder of results, and say where it is."""
    out = Path(args.out) if args.out else PROJECT / (f"runs/{name}" if args.small else "benchmarks/results")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}_{device.type}.md"
    path.write_text(page, encoding="utf-8")
    print(f"the results are in {path}")


def heading(title: str, device: torch.device, small: bool) -> list[str]:
    """The first lines of a page: its title, and how it was made."""
    made = stamp(device)
    versions = " / ".join(f"{k} {v}" for k, v in made["versions"].items())
    lines = [f"# {title}", "", f"`{made['command']}`, {made['date'][:10]}, {made['device']}; {versions}.", ""]
    return lines + ["**Made with `--small`: tiny sizes that only show that the program runs.**", ""] * small
