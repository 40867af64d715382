"""Measurements in a JSON file that grows piece by piece, with what is needed to reproduce them."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from utils.device import describe
from utils.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
NOTED = PROJECT / ".carry" / "revision"
Piece = dict[str, Any]


@dataclass
class Section:
    """Pieces, kept in `folder/name.json`: {"small": bool, "pieces": {key: piece}}."""

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
                raise UserError(f"{self.path}: not a result of this program ({error}); move it away",
                                code="corrupt-file") from None
            if small != self.small:
                raise UserError(f"{self.path}: made {'with' if small else 'without'} --small; choose another --out",
                                code="bad-value")

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def add(self, key: str, piece: Piece, seconds: float) -> None:
        """Write a finished piece down, with what is needed to make it again."""
        self.pieces[key] = {**piece, "seconds": round(seconds, 1), **stamp(self.device)}
        write_whole(self.path, json.dumps({"small": self.small, "pieces": self.pieces}, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def stamp(device: torch.device) -> dict[str, Any]:
    """Command, device, versions and date."""
    script = Path(sys.argv[0])
    place = script.resolve().with_suffix("")
    if place.is_relative_to(PROJECT / "benchmarks"):
        place = place.parent if place.name == "__main__" else place
        script = f"-m {'.'.join(place.relative_to(PROJECT).parts)}"
    words = [str(script), *sys.argv[1:]]
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "numpy": np.__version__,
                "python": platform.python_version(), "project": revision()}
    if torch.version.cuda:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"command": " ".join(["python", words[0], *map(shlex.quote, words[1:])]), "device": describe(device),
            "cores": os.cpu_count(), "versions": versions,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


@cache
def revision() -> str:
    """The commit, with `-dirty` where files were changed; where only a copy of the files is, what was noted when it was
    made (`benchmarks.gpu.pack`), else `unknown`."""
    found = ""
    with contextlib.suppress(OSError):  # no git
        found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True,
                               text=True).stdout.strip()
    if not found and NOTED.is_file():
        found = NOTED.read_text(encoding="utf-8").strip()
    return found or "unknown"


def last_line(text: str) -> str:
    """The end of the last line that is not blank, '' where there is none: why a program ended, by its log."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[-300:]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
