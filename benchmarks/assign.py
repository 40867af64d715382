"""The cost of assignment: `python -m benchmarks.assign`

Compares a training step (forward, loss, backward) with OTA and with plain matching, alternating on the same batch and
the same weights, and measures time and peak memory of the loss of one image with more and more boxes.
"""

import argparse
import json
import sys
import time
from statistics import median

import torch

from benchmarks.measure import Row, add_page_flags, extra_memory, heading, in_own_process, write_page
from benchmarks.record import table
from models import build_model
from utils.cli import positive
from utils.errors import UserError, run_script
from utils.structures import Raw, Targets

MODELS = ("yolov7-tiny", "yolov7-tiny-assn", "yolov5s")
DENSE = (("yolov8n", ""), ("yolov7-tiny", "anchor"), ("yolov7-tiny", "ota"))
TILE = 64  # pixels; --imgsz is a multiple of it
BOXES, SMALL_BOXES = (100, 1000, 5000), (10,)
CLASSES = 80


def main(args: argparse.Namespace) -> None:
    """Measure, then write the tables; with --dense, one measurement of memory in a process of its own."""
    torch.set_num_threads(args.threads)
    if args.dense:
        print(json.dumps(dense(*args.dense.split(","), args.imgsz)))
        return
    imgsz = TILE if args.small else args.imgsz
    if imgsz % TILE:
        raise UserError(f"--imgsz {imgsz}: give a multiple of {TILE}", code="bad-value")
    rounds = 2 if args.small else args.rounds
    steps = {name: compare(name, imgsz, args.batch_size, rounds) for name in MODELS[:1 if args.small else None]}
    boxes = SMALL_BOXES if args.small else BOXES
    memory = [dense_alone(name, assign, count, imgsz) for name, assign in DENSE for count in boxes]
    write_page("assign", torch.device("cpu"), args, make_page(steps, memory, imgsz, args))


def compare(name: str, imgsz: int, batch: int, rounds: int) -> Row:
    """Median CPU seconds of a step and of its loss, alternating plain matching and OTA."""
    models = {assign: make_model(name, assign) for assign in ("anchor", "ota")}
    models["ota"].load_state_dict(models["anchor"].state_dict())
    images = torch.rand(batch, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    targets = random_targets(batch, 8, imgsz)
    steps: dict[str, list[float]] = {assign: [] for assign in models}
    losses: dict[str, list[float]] = {assign: [] for assign in models}
    for _ in range(rounds + 1):
        for assign, model in models.items():
            began = time.process_time()
            raw = model(images)
            forward = time.process_time()
            loss = sum(model.loss(raw, targets).values())
            lost = time.process_time()
            loss.backward()
            steps[assign].append(time.process_time() - began)
            losses[assign].append(lost - forward)
            model.zero_grad(set_to_none=True)
    found = {f"{assign} {what}": median(values[1:]) for what, kept in (("step", steps), ("loss", losses))
             for assign, values in kept.items()}  # the first of each touches fresh memory
    print(f"{name}: OTA takes {found['ota step'] / found['anchor step']:.2f} of the step with plain matching")
    return found


def dense(name: str, assign: str, count: str, imgsz: int) -> Row:
    """Milliseconds, and MiB above what was held before, of the loss and its gradient on one image of many boxes."""
    model = make_model(name, assign)
    with torch.no_grad():
        small = model(torch.rand(1, 3, TILE, TILE))
    # Side by side, not computed at full size: memory that such a pass leaves behind would hide what the loss takes.
    times = imgsz // TILE
    raw = Raw({word: tuple(m.repeat(1, 1, times, times, *[1] * (m.dim() - 4)).requires_grad_() for m in maps)
               for word, maps in small.maps.items()}, (imgsz, imgsz))
    crowd = random_targets(1, int(count), imgsz)
    seconds = []

    def work() -> None:
        began = time.process_time()
        sum(model.loss(raw, crowd).values()).backward()
        seconds.append(time.process_time() - began)

    more = extra_memory(work, torch.device("cpu"))
    for _ in range(2):  # the first one touched fresh memory
        work()
    return {"model": name, "assign": assign, "boxes": int(count), "mib": more, "ms": 1e3 * min(seconds)}


def dense_alone(name: str, assign: str, count: int, imgsz: int) -> Row:
    """`dense` in a process of its own."""
    row = in_own_process("assign", "--dense", f"{name},{assign},{count}", "--imgsz", str(imgsz), "--threads",
                         str(torch.get_num_threads()))
    print(json.dumps(row))
    return row


def make_model(name: str, assign: str):
    """A model of 80 classes in training mode; `assign` is '' for a head with a single assigner."""
    torch.manual_seed(0)
    return build_model(name, CLASSES, assign=assign or None).train()


def random_targets(batch: int, count: int, imgsz: int) -> list[Targets]:
    """Boxes of 1 to 19 % of the frame; with a thousand or more, of 1 to 6 %."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(batch):
        corners = torch.rand(count, 2, generator=random) * imgsz * 0.8
        sides = imgsz * (0.01 + torch.rand(count, 2, generator=random) * (0.18 if count < 1000 else 0.05))
        labels = torch.randint(0, CLASSES, (count,), generator=random)
        made.append(Targets(torch.cat((corners, corners + sides), 1), labels))
    return made


def make_page(steps: dict[str, Row], memory: list[Row], imgsz: int, args: argparse.Namespace) -> str:
    """The tables as Markdown."""
    rows = [[f"`{name}`", *(f"{1e3 * r[k]:.0f}" for k in ("anchor step", "ota step")),
             f"**{r['ota step'] / r['anchor step']:.2f}**", *(f"{1e3 * r[k]:.1f}" for k in ("anchor loss", "ota loss"))]
            for name, r in steps.items()]
    crowds = [[f"`{r['model']}`", r["assign"] or "task-aligned", str(r["boxes"]), f"{r['ms']:.0f}", f"{r['mib']:.0f}"]
              for r in memory]
    text = heading("Assignment on a CPU", torch.device("cpu"), args.small)
    text += [f"A step is forward, loss and backward of {args.batch_size} images at {imgsz} px with 8 boxes each; CPU "
             f"milliseconds, medians of rounds in turn on {torch.get_num_threads()} thread(s).", "",
             *table(["model", "step, plain matching", "step, OTA", "ratio", "its loss, plain", "its loss, OTA"], rows),
             "", "## Many boxes on one image", "", "The loss and its gradient; MiB are what the process takes above "
             f"what it held before, at {imgsz} px with {CLASSES} classes.", "",
             *table(["model", "assignment", "boxes", "ms", "MiB"], crowds)]
    return "\n".join(text) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.assign", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--imgsz", type=positive, default=640, help="side of the frames in pixels")
    add("--batch-size", type=positive, default=4, help="images in a batch")
    add("--rounds", type=positive, default=9, help="steps of each side")
    add("--threads", type=positive, default=1, help="threads of PyTorch; with one, CPU time includes no waiting")
    add_page_flags(add, "assign")
    add("--dense", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
