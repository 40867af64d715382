"""Time and memory of attention in its three forms: `python -m benchmarks.attention`

Per form and size of a square map the forward, the backward, and the greatest memory above that of the inputs; forms in
turn, each measurement of memory on a CPU in a process of its own.
"""

import argparse
import json
import sys
from functools import partial

import torch

from benchmarks.measure import Row, add_page_flags, extra_memory, heading, in_own_process, time_forms, write_page
from benchmarks.record import table
from models.layers.attention import FORMS
from models.registry import choose
from utils.cli import positive
from utils.device import select_device
from utils.errors import run_script

CELLS, SMALL = (19, 33, 38, 41, 64, 65), (5,)
REDUCTION = 8  # of the values' width, in queries and keys


def main(args: argparse.Namespace) -> None:
    """Measure, then write the table; with --memory, one measurement of memory in a process of its own."""
    torch.set_num_threads(args.threads)
    device = select_device(args.device)
    if args.memory:
        form, cells = args.memory.split(",")
        print(json.dumps({"mib": memory(form, int(cells), args, device)}))
        return
    rows = [row for cells in (SMALL if args.small else CELLS) for row in measure(cells, args, device)]
    write_page("attention", device, args, make_page(rows, args, device))


def inputs(cells: int, args: argparse.Namespace, device: torch.device) -> list[torch.Tensor]:
    """Queries, keys and values of a square map, with gradients."""
    torch.manual_seed(0)
    widths = (args.channels // REDUCTION, args.channels // REDUCTION, args.channels)
    return [torch.randn(args.batch_size, c, cells * cells, device=device).requires_grad_() for c in widths]


def measure(cells: int, args: argparse.Namespace, device: torch.device) -> list[Row]:
    """A row of each form, timed in turn: medians of the seconds of forward and backward, MiB."""
    arguments = inputs(cells, args, device)
    grad = torch.randn_like(arguments[2])
    forms = {form: partial(function, *arguments) for form, function in FORMS.items()}
    seconds = time_forms(forms, lambda found: torch.autograd.grad(found, arguments, grad), args.rounds, device)
    rows = []
    for form, (forward, backward) in seconds.items():
        if device.type == "cpu":
            mib = in_own_process("attention", "--memory", f"{form},{cells}", "--channels", str(args.channels),
                                 "--batch-size", str(args.batch_size), "--threads", str(args.threads))["mib"]
        else:
            mib = memory(form, cells, args, device)
        rows.append({"cells": cells, "form": form, "forward": forward, "backward": backward, "mib": mib})
        print(json.dumps(rows[-1]))
    return rows


def memory(form: str, cells: int, args: argparse.Namespace, device: torch.device) -> float:
    """MiB of a forward and backward above what was held before."""
    arguments = inputs(cells, args, device)
    function, grad = FORMS[choose("form", form, FORMS)], torch.randn_like(arguments[2])
    return extra_memory(lambda: torch.autograd.grad(function(*arguments), arguments, grad), device)


def make_page(rows: list[Row], args: argparse.Namespace, device: torch.device) -> str:
    """The table as Markdown."""
    cells = [[f"{r['cells']} x {r['cells']}", r["form"], f"{1e3 * r['forward']:.0f}", f"{1e3 * r['backward']:.0f}",
              f"{r['mib']:.0f}"] for r in rows]
    text = heading("Attention in its three forms", device, args.small)
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
    add_page_flags(add, "attention")
    add("--memory", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
