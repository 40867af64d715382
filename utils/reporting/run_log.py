"""Logs of a run: its folder, results.csv, TensorBoard, the progress line."""

import csv
import io
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from utils.cli import Rule
from utils.errors import UserError, short
from utils.files import write_bytes
from utils.structures import PackedTargets


def increment_dir(project: Path | str, name: str = "exp", exist_ok: bool = False) -> Path:
    """Create `project/name`, or the first free of name2, name3, ...; with `exist_ok` `project/name` itself.

    Two runs that start together get two folders. Raises `UserError` if the folder cannot be created, or would lie
    outside `project`.
    """
    check_name(name)
    number = 1
    while True:
        path = Path(project) / (name if number == 1 else f"{name}{number}")
        try:
            path.mkdir(parents=True, exist_ok=exist_ok)
            return path
        except FileExistsError:
            if exist_ok or not Path(project).is_dir():
                raise UserError(f"{path}: a file stands where a folder should be; choose another --project",
                                "unwritable-folder") from None
            number += 1
        except OSError as error:
            raise UserError(f"{path}: cannot make this folder: {error.strerror}; choose another --project",
                            "unwritable-folder") from None


def leaves_project(name: str) -> bool:
    """Whether a folder of results of this name would lie outside its project, or be hidden."""
    return bool(PurePath(name).anchor) or os.path.normpath(name).startswith(os.curdir)


NAME_RULE = Rule("name", lambda config, _: config.name == "" or not leaves_project(config.name),
                 "should be a folder within --project; give the rest to --project")


def check_name(name: str) -> None:
    """Raises `UserError` for a name of a folder of results that would lie outside its project."""
    if leaves_project(name):
        raise UserError(f"--name {short(name)}: {NAME_RULE.cure}", "bad-value")


class CsvLog:
    """A CSV of one row per epoch, with a column `epoch`.

    Each append replaces the file atomically, so a killed run leaves complete rows. On resume, `from_epoch` is the last
    completed epoch: later rows are dropped. Columns that a row lacks are empty.
    """

    def __init__(self, path: Path | str, from_epoch: int = 0) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, str]] = []
        if from_epoch > 0 and self.path.is_file():
            self.rows = [row for row in read_csv(self.path) if float(row["epoch"]) <= from_epoch]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: floats are written with six significant digits, None as an empty cell."""
        self.rows.append({name: _cell(value) for name, value in row.items()})
        header = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_bytes(self.path, text.getvalue().encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """The rows of a results CSV, padding stripped. Raises `UserError` if it cannot be read or a row has no epoch."""
    path = Path(path)
    try:
        found = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}", "unreadable-file") from None
    rows = [{name.strip(): (cell or "").strip() for name, cell in row.items() if name is not None} for row in found]
    for line, row in enumerate(rows, 2):
        if not row.get("epoch", "").replace(".", "", 1).isdigit():
            raise UserError(f"{path}: line {line} has no epoch number; delete that line", "bad-row")
    return rows


class Board:
    """A TensorBoard log; without the package every call does nothing, after one warning.

    `from_epoch` is the last completed epoch: events of later ones, from an earlier run in this folder, are hidden.
    """

    def __init__(self, folder: Path | str, from_epoch: int = 0) -> None:
        self._writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes half a second
        except ImportError:
            print("TensorBoard is not installed, so no event files: pip install tensorboard", file=sys.stderr)
            return
        self._writer = SummaryWriter(str(folder), purge_step=from_epoch + 1)

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        """Write the numbers of an epoch; `epoch` itself and anything else is ignored."""
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.close()


class LossMeter:
    """Mean losses per image of an epoch, and its speed."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: dict[str, float] = {}
        self._began = time.perf_counter()

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "LossMeter":
        """A meter that continues from a `state`."""
        meter = cls()
        meter.images, meter._sums = state["images"], dict(state["sums"])
        meter._began -= state["seconds"]
        return meter

    def state(self) -> dict[str, Any]:
        """Its counts as plain data."""
        return {"images": self.images, "sums": dict(self._sums), "seconds": time.perf_counter() - self._began}

    def add(self, names: Sequence[str], sums: Sequence[float], images: int) -> None:
        """Add the losses of some steps, summed over `images` images."""
        for name, value in zip(names, sums, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self.images += images

    def means(self) -> dict[str, float]:
        """Loss per image by name."""
        return {name: value / max(self.images, 1) for name, value in self._sums.items()}

    def images_per_second(self) -> float:
        return self.images / max(time.perf_counter() - self._began, 1e-9)


def progress_line(epoch: int, epochs: int, memory: float, meter: LossMeter, targets: PackedTargets, size: int) -> str:
    """The text before the progress bar: `1/100  3.2G  box 1.234  cls 2.345  labels 51  640 px  31.4 img/s`.

    epoch: 0-based; memory in GiB; targets of the latest batch, on the CPU; size: width of the input in pixels.
    """
    losses = "".join(f"  {name} {value:.4f}" for name, value in meter.means().items())
    labels = int(targets.valid.sum())
    return (f"{f'{epoch + 1}/{epochs}':>7}  {memory:.1f}G{losses}  labels {labels:>3}  {size} px  "
            f"{meter.images_per_second():.1f} img/s")
