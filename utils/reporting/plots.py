"""Figures of a run: the columns of results.csv, the statistics of a dataset's labels.

They are drawn by matplotlib, used through its objects and the Agg canvas alone: no windows, no global state, safe in
any thread. It is imported with the first figure, since that takes half a second.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from utils.errors import UserError
from utils.reporting.layout import class_name
from utils.reporting.palette import color, to_hex
from utils.reporting.plot_text import readable, save_figure
from utils.reporting.run_log import read_csv
from utils.truth import LARGE_SIDE, SMALL_SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW, NAMED = 30, 100  # classes whose names fit into half a figure; classes that are named at all


class Labelled(Protocol):
    """What `plot_labels` reads of an image: its size and its boxes (N, 4) xyxy pixels, labels (N,), areas, ignore."""

    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignore: np.ndarray


def plot_results(csv_path: Path | str, path: Path | str, best_epoch: int = 0) -> None:
    """results.csv -> one panel per loss (train and val together) and per metric, and one for the learning rates.

    best_epoch: marked in every panel, by a line, and by a star and its value in those of metrics; 0: none.
    """
    from matplotlib.ticker import MaxNLocator

    rows = read_csv(csv_path)
    if not rows:
        raise UserError(f"{csv_path}: has no rows to draw; train for at least one epoch", "empty-file")
    panels: dict[str, list[str]] = {}  # title -> columns
    for name in (name for name in rows[0] if name not in ("epoch", "time", "skipped_steps")):
        kind, _, rest = name.partition("/")
        title = "learning rate" if kind in ("lr", "x") else f"{rest} loss" if kind in ("train", "val") else rest or kind
        panels.setdefault(title.replace("_loss loss", " loss"), []).append(name)
    across = min(max(math.ceil(math.sqrt(len(panels) * 1.6)), 1), 6)
    down = max(math.ceil(len(panels) / across), 1)
    figure = new_figure(3.2 * across, 2.6 * down)
    for place, (title, members) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(down, across, place)
        curves = {name: _points(rows, name) for name in members}
        for name, points in curves.items():
            if points:
                mark = "." if len(points) < 30 else None  # a single epoch is a point, not an invisible line
                axes.plot(*zip(*points, strict=True), marker=mark, linewidth=1.4, label=escaped(name.partition("/")[0]))
        if len(axes.lines) > 1:
            axes.legend(fontsize=8)
        elif not axes.lines:
            axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        axes.set_title(escaped(title), fontsize=10)
        axes.grid(alpha=0.3)
        _mark_best(axes, curves, best_epoch)
        first, last = float(rows[0]["epoch"]), float(rows[-1]["epoch"])
        axes.set_xlim(first - 0.05 * (last - first) - 0.1, last + 0.05 * (last - first) + 0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if best_epoch:
        figure.suptitle(f"best epoch: {best_epoch} (dashed), with its numbers", fontsize=11)
    write_figure(figure, path)


def _points(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of the epochs in which a column has one; metrics below 0 are undefined."""
    points = [(float(row["epoch"]), _number(row[name])) for row in rows]
    return [p for p in points if math.isfinite(p[1]) and not (name.startswith("metrics/") and p[1] < 0)]


def _mark_best(axes: "Axes", curves: Mapping[str, list[tuple[float, float]]], epoch: int) -> None:
    if not epoch:
        return
    axes.axvline(epoch, color="black", linestyle="--", linewidth=0.8, alpha=0.6)
    for name, points in curves.items():
        value = dict(points).get(epoch)
        if name.startswith("metrics/") and value is not None:
            axes.plot(epoch, value, "*", color="crimson", markersize=9)
            axes.set_title(f"{axes.get_title()}: {value:.3f}", fontsize=10)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def plot_labels(records: Iterable[Labelled], names: Sequence[str], path: Path | str) -> None:
    """Statistics of a dataset: objects per class, where they lie, how large they are. Crowds are left out."""
    rows = [(r.boxes[~r.ignore] / (r.width, r.height, r.width, r.height), r.labels[~r.ignore],
             np.sqrt(np.maximum(r.areas[~r.ignore], 0))) for r in records]
    boxes = np.concatenate([np.zeros((0, 4)), *(b for b, _, _ in rows)])  # (N, 4) shares of the image
    labels = np.concatenate([np.zeros(0, np.int64), *(n for _, n, _ in rows)]).astype(np.int64)
    sides = np.concatenate([np.zeros(0), *(s for _, _, s in rows)])  # square roots of the areas, pixels
    figure, axes = _label_axes(len(names))
    classes, centres, shapes, sizes = axes

    counts = np.bincount(labels, minlength=len(names))
    classes.bar(range(len(counts)), counts, color=[class_hex(k) for k in range(len(counts))])
    classes.set(title=f"{len(labels)} objects in {len(rows)} images", ylabel="objects", xlim=(-1, len(counts)))
    if len(counts) <= NAMED:
        classes.set_xticks(range(len(counts)), [class_text(names, k, 18) for k in range(len(counts))], rotation=90,
                           fontsize=9 if len(counts) <= FEW else 7)
    else:
        classes.set_xlabel("class")
    middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    _heat(centres, middle[:, 0], 1 - middle[:, 1], "Centres, as shares of the image")
    _heat(shapes, extent[:, 0], extent[:, 1], "Width and height, as shares of the image")
    shapes.set(xlabel="width", ylabel="height")
    _plot_sizes(sizes, sides)
    write_figure(figure, path)


def _label_axes(classes: int) -> "tuple[Figure, list[Axes]]":
    """A figure with four panels, the first so wide that the names of the classes stand beside each other."""
    if classes <= FEW:
        figure = new_figure(11, 9)
        return figure, [figure.add_subplot(2, 2, k) for k in range(1, 5)]
    figure = new_figure(min(max(11.0, 1.2 + 0.145 * classes), 16), 9)
    grid = figure.add_gridspec(2, 3)
    return figure, [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1, k]) for k in range(3))]


def _heat(axes: "Axes", x: np.ndarray, y: np.ndarray, title: str) -> None:
    from matplotlib.colors import LogNorm

    grid, _, _ = np.histogram2d(np.clip(x, 0, 1), np.clip(y, 0, 1), bins=60, range=((0, 1), (0, 1)))
    shown = np.ma.masked_equal(grid.T, 0)
    axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=LogNorm(1, max(grid.max(), 2)))
    axes.set_title(title)


def _plot_sizes(axes: "Axes", sides: np.ndarray) -> None:
    """Histogram of object sizes on a logarithmic scale with COCO's small, medium and large ranges."""
    edges = np.geomspace(1, 2048, 56)
    axes.hist(np.clip(sides, edges[0], edges[-1]), bins=edges, color="#32ade6")
    for limit in (SMALL_SIDE, LARGE_SIDE):
        axes.axvline(limit, color="black", linestyle="--", linewidth=1)
    shares = [np.mean((sides >= low) & (sides < high)) if len(sides) else 0.0
              for low, high in ((0, SMALL_SIDE), (SMALL_SIDE, LARGE_SIDE), (LARGE_SIDE, np.inf))]
    for place, word, share in zip((0.25, 0.52, 0.8), ("small", "medium", "large"), shares, strict=True):
        axes.text(place, 1.01, f"{word} {share:.0%}", ha="center", transform=axes.transAxes)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2 ** k for k in range(0, 12, 1)], [str(2 ** k) for k in range(0, 12, 1)], fontsize=8)
    axes.set(xlabel="square root of the area, pixels of the original image", ylabel="objects", xlim=(1, 2048))


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of width x height inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: "Figure", path: Path | str) -> None:
    """Write a figure as an image file, in a folder that is made where it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # names longer than the figure
        warnings.filterwarnings("ignore", "Glyph .* missing")  # those are drawn over the figure
        save_figure(figure, path)


def class_hex(index: int) -> str:
    """The colour of class `index` as matplotlib takes it."""
    return to_hex(color(index))


def class_text(names: Sequence[str], k: int, limit: int = 32) -> str:
    """The name of class k in letters that something here can draw."""
    return escaped(readable(class_name(names, k)), limit)


def escaped(name: str, limit: int = 32) -> str:
    """A name that matplotlib shows as it is: `$` would start mathematics, a leading `_` would hide it in a legend."""
    name = " ".join(name.split()) or "(no name)"
    name = name if len(name) <= limit else name[:limit - 1] + "…"
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")
