"""What was measured, as files: one JSON per section, grown piece by piece, and a table in Markdown made from them."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
import torchvision

from utils.device import describe
from utils.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
Piece = dict[str, Any]


@dataclass
class Section:
    """The pieces of one section, kept in `folder/name.json`: {"small": bool, "pieces": {key: piece}}."""

    folder: Path
    name: str
    small: bool
    device: torch.device
    pieces: dict[str, Piece] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                small, self.pieces = content["small"], dict(content["pieces"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}: not a result of this program ({error}); move it away") from None
            if small != self.small:
                raise UserError(f"{self.path}: made {'with' if small else 'without'} --small; choose another --out")

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def add(self, key: str, piece: Piece, seconds: float) -> None:
        """Write a finished piece down, with what is needed to make it again."""
        self.pieces[key] = {**piece, "seconds": round(seconds, 1), **stamp(self.device)}
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"small": self.small, "pieces": self.pieces}, indent=1), encoding="utf-8")
        unfinished.replace(self.path)


def stamp(device: torch.device) -> dict[str, Any]:
    """Command, device, versions and date."""
    script = Path(sys.argv[0])
    ours = script.resolve().parent == PROJECT / "benchmarks"
    words = [f"-m benchmarks.{script.stem}" if ours else str(script), *sys.argv[1:]]
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__,
                "python": platform.python_version(), "project": revision()}
    if torch.version.cuda:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"command": " ".join(["python", words[0], *map(shlex.quote, words[1:])]), "device": describe(device),
            "cores": os.cpu_count(), "versions": versions,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def revision() -> str:
    """The commit, with `-dirty` where files were changed; `unknown` outside a checkout."""
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def write_table(sections: Mapping[str, Section], planned: Mapping[str, int]) -> str:
    """The whole report as Markdown. planned: how many pieces each section has when it is done."""
    text = ["# GPU smoke run", "",
            "Made by `python -m benchmarks.gpu_smoke` from the JSON files beside it, which hold the exact commands.",
            ""]
    pieces = [piece for section in sections.values() for piece in section.pieces.values()]
    for device in dict.fromkeys(piece["device"] for piece in pieces):
        on = [piece for piece in pieces if piece["device"] == device]
        days = sorted({piece["date"][:10] for piece in on})
        versions = " / ".join(f"{name} {version}" for name, version in on[-1]["versions"].items())
        text.append(f"- **{device}**, {' to '.join(dict.fromkeys((days[0], days[-1])))}: {len(on)} pieces; {versions}")
    if any("cpu" in piece["device"] for piece in pieces):
        text.append("- **Rehearsed on a CPU: this says nothing about a GPU.**")
    if any(section.small for section in sections.values()):
        text.append("- Made with `--small`: tiny sizes that only show that the program runs.")
    for name, section in sections.items():
        text += ["", f"## {TITLES[name]}", "", f"{len(section.pieces)} of {planned[name]} pieces.", ""]
        text += TABLES[name](section.pieces) if section.pieces else []
    return "\n".join(text) + "\n"


def last_line(text: str) -> str:
    """The end of the last line that is not blank, '' where there is none: why a program ended, by its log."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[-300:]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]


def _checks(pieces: Mapping[str, Piece]) -> list[str]:
    """Pieces that hold `checks`: [{"what", "error", "limit", "ok"}]."""
    rows = []
    for key, piece in pieces.items():
        for check in piece["checks"]:
            numbers = [f"{check[k]:.2e}" if check.get(k) is not None else "" for k in ("error", "limit")]
            verdict = check["note"] or "yes" if check["ok"] else f"**no** {check['note']}"
            rows.append([key, check["what"], *numbers, verdict])
    return table(["what", "compared", "largest error", "allowed", "holds"], rows)


def _speed(pieces: Mapping[str, Piece]) -> list[str]:
    rows = [[key, row["setting"], f"{row['images_per_s']:.1f}", f"{row['ms_per_step']:.1f}", f"{row['memory_gb']:.2f}",
             f"{row['loss']:.4f}", f"{100 * row['loss_difference']:.2f} %" + ("" if row["ok"] else " **far**")]
            for key, piece in pieces.items() for row in piece["rows"]]
    first = next(iter(pieces.values()))
    note = f"A training step (forward, loss, backward, optimiser, EMA) at {first['imgsz']} px, batch {first['batch']}."
    head = ["model", "setting", "images/s", "ms a step", "peak GiB", "first loss", "from fp32"]
    return [note, "", *table(head, rows)]


def _training(pieces: Mapping[str, Piece]) -> list[str]:
    numbers = ("AP", "AP50", "AP_S", "AP_M", "AP_L")
    rows, groups = [], {}
    for piece in pieces.values():
        groups.setdefault(piece["model"], []).append(piece)
        cells = ["-" if piece["test"][n] < 0 else f"{100 * piece['test'][n]:.1f}" for n in numbers]
        rows.append([piece["model"], str(piece["seed"]), *cells, f"{100 * piece['val']['AP']:.1f}",
                     f"{piece['images_per_s']:.0f}", f"{piece['memory_gb']:.2f}"])
    for model, runs in groups.items():
        if len(runs) > 1:
            spread = [[run["test"][n] for run in runs] for n in numbers]
            cells = ["-" if min(v) < 0 else f"{100 * fmean(v):.1f} ± {100 * stdev(v):.1f}" for v in spread]
            rows.append([f"**{model}**", f"mean of {len(runs)}", *cells,
                         f"{100 * fmean(run['val']['AP'] for run in runs):.1f}", "", ""])
    first = next(iter(pieces.values()))
    note = (f"{first['data']}, {first['epochs']} epochs at {first['imgsz']} px, batch {first['batch']}, from scratch; "
            f"best.pt by the val split, COCO protocol on the {first['split']} split, in percent. images/s: training "
            f"epochs without validation, loading included, {first['jobs']} at a time.")
    return [note, "", *table(["model", "seed", *numbers, "val AP", "images/s", "peak GiB"], rows)]


TITLES = {"goldens": "Numbers of the original implementations, fp32", "steps": "One training step, against the CPU",
          "speed": "Mixed precision and channels_last", "training": "Trainings"}
TABLES: dict[str, Callable[[Mapping[str, Piece]], list[str]]] = {
    "goldens": _checks, "steps": _checks, "speed": _speed, "training": _training}
