"""The table, files and picture of an audit of the assignment.

Legend: N objects, L levels of the pyramid.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.doctor.seen_sizes import BINS
from utils.files import write_bytes

TINY = 16  # px: the size below which the line at the end counts


@dataclass(frozen=True, eq=False)
class Audited:
    """The objects of a split: size (N,) px, positives (N,) and by level (N, L), and of each object's positives the sums
    (N,) of the IoU of the predicted box, of the anchor where there are some, and of the cost of a one-to-one matching.
    """

    split: str
    images: int
    size: np.ndarray
    positives: np.ndarray
    levels: np.ndarray
    overlap: np.ndarray
    prior: np.ndarray | None = None
    cost: np.ndarray | None = None

    def row(self, name: str, chosen: np.ndarray) -> dict[str, Any]:
        """Numbers of some of the objects; None where there is nothing to take a mean of. chosen (N,) bool."""
        count, objects = self.positives[chosen], int(chosen.sum())
        total = int(count.sum())

        def mean(values: np.ndarray | None) -> float | None:
            return None if values is None or not total else float(values[chosen].sum() / total)

        shares = self.levels[chosen].sum(0) / max(total, 1) if self.levels.any() else []
        return {"split": self.split, "size": name, "objects": objects,
                "without": float((count == 0).mean()) if objects else None,
                "mean": float(count.mean()) if objects else None,
                "median": float(np.median(count)) if objects else None, "iou": mean(self.overlap),
                "anchor_iou": mean(self.prior), "cost": mean(self.cost), "levels": [float(s) for s in shares]}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each size bin, and one for all."""
        place = np.digitize(self.size, BINS)
        names = [f"< {BINS[0]}", *(f"{a}-{b}" for a, b in zip(BINS, BINS[1:], strict=False)), f">= {BINS[-1]}"]
        return [*(self.row(name, place == k) for k, name in enumerate(names)),
                self.row("all", np.ones(len(self.size), bool))]

    def tiny(self) -> str:
        """How many of the objects below `TINY` px get no positive."""
        counts = self.positives[self.size < TINY]
        if not len(counts):
            return f"{self.split}: no object below {TINY} px"
        none = int((counts == 0).sum())
        return (f"{self.split}: of {len(counts):,} objects below {TINY} px {len(counts) - none:,} get a positive, "
                f"{none:,} ({none / len(counts):.1%}) none")


def format_table(found: Sequence[Audited], strides: Sequence[int]) -> str:
    """The rows of all splits; columns that no row has are left out."""
    rows = [row for part in found for row in part.rows()]
    columns = [("split", "split", "{}"), ("size px", "size", "{}"), ("objects", "objects", "{:,}"),
               ("without", "without", "{:.1%}"), ("mean", "mean", "{:.2f}"), ("median", "median", "{:g}"),
               ("IoU", "iou", "{:.3f}"), ("anchor IoU", "anchor_iou", "{:.3f}"), ("cost", "cost", "{:.2f}")]
    columns = [c for c in columns if any(row[c[1]] is not None for row in rows)]
    cells = [[title for title, *_ in columns] + [f"/{stride}" for stride in strides] * any(r["levels"] for r in rows)]
    for row in rows:
        own = ["-" if row[key] is None else form.format(row[key]) for _, key, form in columns]
        cells.append(own + [f"{share:.0%}" for share in row["levels"]])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) if k > 1 else cell.ljust(w) for k, (cell, w) in enumerate(zip(
        line, widths, strict=True))).rstrip() for line in cells)


def write_report(found: Sequence[Audited], strides: Sequence[int], head: Sequence[str], folder: Path,
                 plots: bool = True) -> str:
    """assignment.txt, .csv, .json and .png in `folder`; returns the text."""
    images = ", ".join(f"{part.split} {part.images:,}" for part in found)
    text = "\n".join([*head, f"images: {images}", "", format_table(found, strides), "", *(p.tiny() for p in found)])
    rows = [row for part in found for row in part.rows()]
    write_bytes(folder / "assignment.txt", (text + "\n").encode())
    content = {"audit": list(head), "strides": list(strides), "images": {p.split: p.images for p in found},
               "rows": rows, "tiny": [part.tiny() for part in found]}
    write_bytes(folder / "assignment.json", json.dumps(content, indent=1).encode())
    write_bytes(folder / "assignment.csv", _csv(rows, strides).encode())
    if plots:
        plot_positives(found, strides, folder / "assignment.png")
    return text


def _csv(rows: Sequence[dict[str, Any]], strides: Sequence[int]) -> str:
    keys = [key for key in rows[0] if key != "levels"]
    lines = [",".join([*keys, *(f"stride_{stride}" for stride in strides)])]
    for row in rows:
        shares = row["levels"] or [None] * len(strides)
        lines.append(",".join("" if v is None else str(v) for v in (*(row[key] for key in keys), *shares)))
    return "\n".join(lines) + "\n"


def plot_positives(found: Sequence[Audited], strides: Sequence[int], path: Path) -> None:
    """Over the size of objects: the share without a positive by split, and the mean positives by level of the first."""
    from utils.reporting.plots import new_figure, write_figure

    edges = np.arange(1, 10.01, 0.5)  # log2 px
    middles = (edges[:-1] + edges[1:]) / 2
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for part in found:
        place = np.digitize(np.log2(part.size.clip(2, 1023)), edges) - 1
        objects = np.bincount(place, minlength=len(middles))
        none = np.bincount(place[part.positives == 0], minlength=len(middles))
        seen = objects > 0
        left.plot(middles[seen], none[seen] / objects[seen], marker=".", label=f"{part.split} ({len(part.size):,})")
    left.set_ylabel("share of the objects without a positive")
    left.set_ylim(-0.02, 1.02)
    left.legend(fontsize=8)
    first, bottom = found[0], np.zeros(len(middles))
    place = np.digitize(np.log2(first.size.clip(2, 1023)), edges) - 1
    objects = np.bincount(place, minlength=len(middles)).clip(1)
    columns = zip(first.levels.T, [f"stride {s}" for s in strides], strict=True) if first.levels.any() else [
        (first.positives, "positives")]
    for counts, label in columns:
        height = np.bincount(place, counts, len(middles)) / objects
        right.bar(middles, height, 0.45, bottom, label=label)
        bottom = bottom + height
    right.set_ylabel(f"mean positives of an object ({first.split})")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xticks(range(1, 11), [str(2**k) for k in range(1, 11)])
        axes.set_xlabel("size of an object: root of its area, px")
    write_figure(figure, path)
