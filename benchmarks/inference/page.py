"""The measurements as a table, a CSV and a picture."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import table
from engine.inference.look import STAGES
from utils.files import write_bytes
from utils.reporting.plots import new_figure, write_figure

Row = dict[str, float | str]  # runtime, batch, the stages in ms per image, AP where it was measured


def lines(rows: Sequence[Row]) -> list[str]:
    """The table as Markdown."""
    judged = any("AP" in row for row in rows)
    head = ["runtime", "batch", *(f"{stage}, ms" for stage in STAGES), "all, ms", "images/s", *["AP"] * judged]
    cells = [[str(row["runtime"]), str(row["batch"]), *(f"{row[stage]:.1f}" for stage in STAGES),
              f"{_total(row):.1f}", f"{1e3 / _total(row):.1f}",
              *([f"{row['AP']:.4f}" if "AP" in row else ""] * judged)] for row in rows]
    return table(head, cells)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One row for each runtime and batch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["runtime", "batch", *STAGES, "AP"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Milliseconds per image by batch size, a line for each runtime."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["runtime"] for row in rows):
        points = sorted((row["batch"], _total(row)) for row in rows if row["runtime"] == name)
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    batches = sorted({row["batch"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set(xlabel="batch", ylabel="ms per image, all stages", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_figure(figure, path)


def _total(row: Row) -> float:
    return sum(row[stage] for stage in STAGES)
