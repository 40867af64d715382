"""The panels of the page in one picture."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.audit.section import BIN_NAMES
from utils.reporting.plots import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 4  # panels of a row
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")  # after Okabe and Ito
SHADES = ("#08306b", "#2171b5", "#6baed6", "#c6dbef", "#deebf7", "#f7fbff")  # of levels, the finest darkest
LABELS = tuple(name.replace("-", "–").replace(">= ", "≥").replace("< ", "<") for name in BIN_NAMES)
SMALL = 8  # pt

Panel = Callable[["Axes"], None]


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write a picture of the panels, in rows of `ACROSS`."""
    across = min(len(panels), ACROSS)
    down = math.ceil(len(panels) / across)
    figure = new_figure(3.5 * across, 2.9 * down + 0.4)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(down, across, place)
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
        panel(axes)
        axes.title.set_fontsize(9.5)
        axes.xaxis.label.set_fontsize(SMALL)
        axes.yaxis.label.set_fontsize(SMALL)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    write_figure(figure, path)


def over_bins(axes: "Axes", label: str = "size of an object, px") -> None:
    """Size bins along x."""
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_xlim(-0.5, len(LABELS) - 0.5)
    axes.set_xlabel(label)


def percents(axes: "Axes", most: float = 1.0) -> None:
    """Shares along y, in percent."""
    ticks = np.linspace(0, most, 6)
    axes.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    axes.set_ylim(0, most * 1.03)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def legend(axes: "Axes", **more: object) -> None:
    """A small legend without a frame."""
    axes.legend(fontsize=SMALL - 1, frameon=False, **more)
