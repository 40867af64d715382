"""Time and memory of sampling in deformable attention: `python -m benchmarks.deformable`

`summed` is ours (`models.transformer.deformable.sample_levels`): what each level gives is weighed and added before the
next is sampled. `stacked` is the published pure-PyTorch form (Zhu et al. 2021, eq. 3, as its code writes it): the
samples of all levels are stacked before one weighted sum. Forms in turn; memory in a process of its own each.
"""

import argparse
import json
import sys
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row, add_page_flags, extra_memory, heading, in_own_process, time_forms, write_page
from benchmarks.record import table
from models.registry import choose
from models.transformer.deformable import Sizes, sample_levels
from utils.cli import positive
from utils.device import select_device
from utils.errors import run_script

HEADS, DEPTH, POINTS, STRIDES = 8, 32, 4, (8, 16, 32, 64)  # of Salience DETR R50
SIDES, SMALL = (384, 800), (64,)


def stacked(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels` with the samples of all levels in memory at once."""
    batch, _, heads, depth = value.shape
    count, found = places.shape[1], []
    for level, (part, size) in enumerate(zip(value.split([h * w for h, w in sizes], 1), sizes, strict=True)):
        plane = part.flatten(2).transpose(1, 2).reshape(batch * heads, depth, *size)
        grid = (2 * places - 1)[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*H, Q, P, 2)
        found.append(F.grid_sample(plane, grid, align_corners=False))  # (B*H, D, Q, P)
    share = weights.transpose(1, 2).reshape(batch * heads, 1, count, -1)  # (B*H, 1, Q, L*P)
    total = (torch.stack(found, -2).flatten(-2) * share).sum(-1)
    return total.view(batch, heads * depth, count).transpose(1, 2).contiguous()


FORMS = {"summed": sample_levels, "stacked": stacked}


def main(args: argparse.Namespace) -> None:
    """Measure, then write the table; with --memory, one measurement of memory in a process of its own."""
    torch.set_num_threads(args.threads)
    device = select_device(args.device)
    if args.memory:
        form, side = args.memory.split(",")
        print(json.dumps({"mib": memory(form, int(side), args, device)}))
        return
    rows = [row for side in (SMALL if args.small else SIDES) for row in measure(side, args, device)]
    write_page("deformable", device, args, make_page(rows, args, device))


def inputs(side: int, args: argparse.Namespace, device: torch.device) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Value, places and weights, with gradients, of a square image in the encoder, every token a query; sizes."""
    torch.manual_seed(0)
    sizes = [(-(-side // stride),) * 2 for stride in STRIDES]
    tokens = sum(h * w for h, w in sizes)
    value = torch.randn(args.batch_size, tokens, HEADS, DEPTH, device=device)
    places = torch.rand(args.batch_size, tokens, HEADS, len(sizes), POINTS, 2, device=device)
    weights = torch.rand(args.batch_size, tokens, HEADS, len(sizes), POINTS, device=device)
    return [x.requires_grad_() for x in (value, places, weights)], sizes


def call(form: str, arguments: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
    """What that form gives."""
    value, places, weights = arguments
    return FORMS[choose("form", form, FORMS)](value, sizes, places, weights)


def measure(side: int, args: argparse.Namespace, device: torch.device) -> list[Row]:
    """A row of each form, timed in turn: medians of the seconds of forward and backward, MiB."""
    arguments, sizes = inputs(side, args, device)
    forms = {form: partial(call, form, arguments, sizes) for form in FORMS}
    seconds = time_forms(forms, lambda found: torch.autograd.grad(found.sum(), arguments), args.rounds, device)
    rows = []
    for form, (forward, backward) in seconds.items():
        if device.type == "cpu":
            mib = in_own_process("deformable", "--memory", f"{form},{side}", "--batch-size", str(args.batch_size),
                                 "--threads", str(args.threads))["mib"]
        else:
            mib = memory(form, side, args, device)
        rows.append({"side": side, "form": form, "forward": forward, "backward": backward, "mib": mib})
        print(json.dumps(rows[-1]))
    return rows


def memory(form: str, side: int, args: argparse.Namespace, device: torch.device) -> float:
    """MiB of a forward and backward above what was held before."""
    arguments, sizes = inputs(side, args, device)
    return extra_memory(lambda: torch.autograd.grad(call(form, arguments, sizes).sum(), arguments), device)


def make_page(rows: list[Row], args: argparse.Namespace, device: torch.device) -> str:
    """The table as Markdown."""
    cells = [[f"{r['side']} px", r["form"], f"{1e3 * r['forward']:.0f}", f"{1e3 * r['backward']:.0f}",
              f"{r['mib']:.0f}"] for r in rows]
    text = heading("Sampling in deformable attention", device, args.small)
    text += [f"Square images, strides {', '.join(map(str, STRIDES))}, every token a query, {HEADS} heads of {DEPTH}, "
             f"{POINTS} points, float32, {args.batch_size} image(s), {args.threads} thread(s) on the CPU; milliseconds "
             f"of CPU time, medians of {args.rounds} rounds in turn; MiB of forward and backward above the inputs. "
             "`summed` is ours, `stacked` the published pure-PyTorch form.", "",
             *table(["image", "form", "forward", "backward", "MiB"], cells)]
    return "\n".join(text) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deformable", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batch-size", type=positive, default=1, help="images in a batch")
    add("--rounds", type=positive, default=5, help="steps of each form")
    add("--threads", type=positive, default=1, help="threads of PyTorch; with one, CPU time includes no waiting")
    add("--device", default="cpu", help="cpu, or the number of a GPU")
    add_page_flags(add, "deformable")
    add("--memory", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
