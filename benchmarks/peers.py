"""Shared by comparisons with a peer: its flags, and labels in a format that both sides read."""

import argparse
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.record import PROJECT
from data.labels.records import Record
from utils.errors import UserError


def add_peer_flags(add: Callable[..., object]) -> None:
    """`--peer` and `--peer-python`, by a parser's `add_argument`."""
    add("--peer", choices=("ultralytics", "none"), default="none", help="project to compare with")
    add("--peer-python", default="runs/peer/bin/python", metavar="PATH", help="Python that has the peer installed")


def find_peer(args: argparse.Namespace) -> str:
    """The peer's python, '' where no peer is asked for; checked, so that a run does not fail in its middle."""
    if args.peer == "none":
        return ""
    python = shutil.which(args.peer_python)
    how = "benchmarks/README.md tells how to install it; or measure ours alone with --peer none"
    if python is None:
        raise UserError(f"--peer-python {args.peer_python}: no such program; {how}", code="missing-file")
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({args.peer!r}) is None)"
    if subprocess.run([python, "-c", code], cwd=PROJECT).returncode:
        raise UserError(f"--peer-python {python}: it has no package {args.peer}; {how}", code="missing-package")
    return str(Path(python).absolute())  # not resolved: a virtual environment's python is a link


def yolo_rows(record: Record) -> str:
    """The objects of a record as lines `class x y width height`, fractions of the image; crowds have no such form."""
    size = np.array([record.width, record.height] * 2)
    keep = ~np.asarray(record.ignore, bool)
    x1, y1, x2, y2 = np.asarray(record.boxes, np.float64).reshape(-1, 4)[keep].T
    rows = np.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1) / size
    return "".join(yolo_row(label, row) for label, row in zip(np.asarray(record.labels)[keep], rows, strict=True))


def yolo_row(label: int, row: np.ndarray) -> str:
    """One line; row (4,) is x, y of the centre, width and height."""
    return f"{int(label)} {' '.join(f'{value:.6f}' for value in row)}\n"
