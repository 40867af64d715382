"""Which files one training step runs through, in the order in which they are entered.

    python -m benchmarks.step_path                       # this checkout
    python -m benchmarks.step_path --checkout ../other   # another one, for comparison

A step is everything between the ends of two optimiser steps of `train.py` on a CPU: averaging the weights, loading a
batch in the main process, forward, loss, backward and the next optimiser step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
STEPS = (1, 2)  # the step between the ends of these two is recorded


def trace(folder: Path, root: Path, cfg: str) -> list[tuple[str, list[str]]]:
    """Train a few steps on data in `folder`. Returns (file below `root`, functions called) in the order of entry."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import train

    entered: dict[str, dict[str, None]] = {}
    steps = 0

    def note(frame, event: str, _) -> None:
        if event == "call" and STEPS[0] <= steps < STEPS[1]:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(root) and ".venv" not in path.parts and path.name != Path(__file__).name:
                name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # from Python 3.11 on
                entered.setdefault(str(path.relative_to(root)), {})[name] = None

    def count(*_) -> None:
        nonlocal steps
        steps += 1

    register_optimizer_step_post_hook(count)
    threading.setprofile(note)
    sys.setprofile(note)
    flags = f"--cfg {cfg} --data {folder}/tiny.yaml --imgsz 32 --batch 64 --epochs 1 --workers 0 --device cpu --noplots"
    train.main(train.build_parser().parse_args([*flags.split(), "--nosave", "--noval", "--project", str(folder)]))
    sys.setprofile(None)
    return [(file, list(functions)) for file, functions in entered.items()]


def main(args: argparse.Namespace) -> None:
    root = Path(args.checkout).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = {"format": "shapes", "path": f"{name}/shapes", "train": 256, "val": 2, "size": 64, "seed": 0}
        (folder / "tiny.yaml").write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
        command = [sys.executable, __file__, "--trace", name, "--cfg", args.cfg]
        # the output of the training goes to stderr (2)
        subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=True, stdout=2)
        entered = json.loads((folder / "path.json").read_text(encoding="utf-8"))
    for file, functions in entered:
        print(f"{len(functions):4}  {file}")
    print(f"{sum(len(functions) for _, functions in entered)} functions in {len(entered)} files")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", default=str(PROJECT), help="root of the checkout to trace")
    parser.add_argument("--cfg", default="yolov8n-assn", help="model to train")
    parser.add_argument("--trace", help=argparse.SUPPRESS)  # the process that trains: where to write the result
    return parser


if __name__ == "__main__":
    given = build_parser().parse_args()
    if given.trace:
        place = Path(given.trace)
        (place / "path.json").write_text(json.dumps(trace(place, Path.cwd(), given.cfg)), encoding="utf-8")
    else:
        main(given)
