"""Time and memory of attention in its three forms: `python -m benchmarks.attention`

Per form and size of a square map the forward, the backward, and the greatest memory above that of the inputs; forms in
turn, each measurement of memory on a CPU in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.record import PROJECT, stamp, table
from engine.training.autobatch import meter_of
from models.layers.attention import FORMS
from models.registry import choose
from utils.cli import positive
from utils.device import select_device
from utils.errors import UserError, run_script

CELLS, SMALL = (19, 33, 38, 41, 64, 65), (5,)
REDUCTION = 8  # of the values' width, in queries and keys
Row = dict[str, Any]


def main(args: argparse.Namespace) -> None:
    """Measure, then write the table; with --memory, one measurement of memory in a process of its own."""
    torch.set_num_threads(args.threads)
    device = select_device(args.device)
    if args.memory:
        form, cells = args.memory.split(",")
        print(json.dumps(memory(form, int(cells), args, device)))
        return
    rows = [row for cells in (SMALL if args.small else CELLS) for row in measure(cells, args, device)]
    out = Path(args.out) if args.out else PROJECT / ("runs/attention" if args.small else "benchmarks/results")
    out.mkdir(parents=True, exist_ok=True)
    page = out / f"attention_{device.type}.md"
    page.write_text(write_page(rows, args, device), encoding="utf-8")
    print(f"the table is in {page}")


def inputs(cells: int, args: argparse.Namespace, device: torch.device) -> list[torch.Tensor]:
    """Queries, keys and values of a square map, with gradients."""
    torch.manual_seed(0)
    widths = (args.channels // REDUCTION, args.channels // REDUCTION, args.channels)
    return [torch.randn(args.batch_size, c, cells * cells, device=device).requires_grad_() for c in widths]


def measure(cells: int, args: argparse.Namespace, device: torch.device) -> list[Row]:
    """A row of each form, timed in turn: medians of the seconds of forward and backward, MiB."""
    arguments = inputs(cells, args, device)
    grad = torch.randn_like(arguments[2])
    seconds: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    for _ in range(args.rounds + 1):
        for form, function in FORMS.items():
            began = _clock(device)
            found = function(*arguments)
            forward = _clock(device)
            torch.autograd.grad(found, arguments, grad)
            seconds[form].append((forward - began, _clock(device) - forward))
    rows = []
    for form, pairs in seconds.items():
        forward, backward = (median(values) for values in zip(*pairs[1:], strict=True))  # the first warms up
        rows.append({"cells": cells, "form": form, "forward": forward, "backward": backward,
                     "mib": in_own_process(form, cells, args) if device.type == "cpu"
                     else memory(form, cells, args, device)["mib"]})
        print(json.dumps(rows[-1]))
    return rows


def memory(form: str, cells: int, args: argparse.Namespace, device: torch.device) -> Row:
    """MiB of a forward and backward above what was held before."""
    arguments = inputs(cells, args, device)
    grad = torch.randn_like(arguments[2])
    meter = meter_of(device)
    if meter is None:
        raise UserError("the memory of a process cannot be read on this system; run this on Linux",
                        code="unsupported-platform")
    function, held = FORMS[choose("form", form, FORMS)], meter.peak(lambda: None)
    peak = meter.peak(lambda: torch.autograd.grad(function(*arguments), arguments, grad))
    return {"mib": (peak - held) / 2**20}


def in_own_process(form: str, cells: int, args: argparse.Namespace) -> float:
    """`memory`, where the peak is that of nothing else."""
    command = [sys.executable, "-m", "benchmarks.attention", "--memory", f"{form},{cells}", "--device", args.device,
               "--channels", str(args.channels), "--batch-size", str(args.batch_size), "--threads", str(args.threads)]
    output = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return json.loads(output)["mib"]


def _clock(device: torch.device) -> float:
    """Seconds of this process's work on a CPU, of a GPU's once it is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def write_page(rows: list[Row], args: argparse.Namespace, device: torch.device) -> str:
    """The table as Markdown."""
    made = stamp(device)
    versions = " / ".join(f"{k} {v}" for k, v in made["versions"].items())
    cells = [[f"{r['cells']} x {r['cells']}", r["form"], f"{1e3 * r['forward']:.0f}", f"{1e3 * r['backward']:.0f}",
              f"{r['mib']:.0f}"] for r in rows]
    text = ["# Attention in its three forms", "",
            f"`{made['command']}`, {made['date'][:10]}, {made['device']}; {versions}.", ""]
    text += ["**Made with `--small`: tiny sizes that only show that the program runs.**", ""] * args.small
    text += [f"Values of {args.channels} channels, queries and keys of {args.channels // REDUCTION}, float32, "
             f"{args.batch_size} image(s), {args.threads} thread(s) on the CPU; milliseconds, medians of {args.rounds} "
             "rounds in turn; MiB of forward and backward above the inputs. `plain` keeps the weights of all pairs of "
             "cells for the backward, `chunked` computes them again, `fused` is torch's kernel.", "",
             *table(["map", "form", "forward", "backward", "MiB"], cells)]
    return "\n".join(text) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--channels", type=positive, default=512, help="of the values; queries and keys have an eighth")
    add("--batch-size", type=positive, default=1, help="images in a batch")
    add("--rounds", type=positive, default=5, help="steps of each form")
    add("--threads", type=positive, default=1, help="threads of PyTorch; with one, CPU time includes no waiting")
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add("--small", action="store_true", help="tiny sizes, to see that the program runs")
    add("--out", default="", help="folder of results; default benchmarks/results, with --small runs/attention")
    add("--memory", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
