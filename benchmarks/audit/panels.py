"""What each panel of the picture draws.

Legend: L levels of the pyramid.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.audit.figure import COLOURS, LABELS, SHADES, Panel, legend, over_bins, percents
from benchmarks.audit.positives import Splits
from data.doctor.seen_sizes import BINS, Seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"train": {"marker": "o", "linestyle": "-"}, "val": {"marker": "D", "linestyle": ":", "alpha": 0.75}}


def of_positives(found: Splits, strides: Sequence[int]) -> list[Panel]:
    """Objects without a positive; mean positives; by level, of the training batches."""
    def without(axes: "Axes") -> None:
        _lines(axes, found, "without")
        percents(axes)
        axes.set_title("Objects that no prediction learns")
        legend(axes)

    def mean(axes: "Axes") -> None:
        _lines(axes, found, "mean")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.25)
        axes.set_title("Mean positives of an object")

    def levels(axes: "Axes") -> None:
        wide = 0.8 / len(found)
        for k, splits in enumerate(found.values()):
            shares = np.array([row["levels"] for row in splits["train"].rows()[:-1]])  # (bins, L)
            places = np.arange(len(LABELS)) + (k - (len(found) - 1) / 2) * wide
            for level, stride in enumerate(strides):
                axes.bar(places, shares[:, level], 0.92 * wide, shares[:, :level].sum(1), color=SHADES[level],
                         edgecolor="white", linewidth=0.4, label=f"stride {stride}" if k == 0 else None)
        over_bins(axes)
        percents(axes)
        axes.set_title("Positives by level" + f" ({', '.join(found)})" * (len(found) > 1))
        legend(axes, loc="upper center", ncols=len(strides), bbox_to_anchor=(0.5, -0.17), handlelength=1)

    has_levels = any(splits["train"].levels.any() for splits in found.values())
    return [without, mean, levels] if has_levels else [without, mean]


def _lines(axes: "Axes", found: Splits, quantity: str) -> None:
    """A line for each assigner and split over the size bins."""
    for (name, splits), colour in zip(found.items(), COLOURS, strict=False):
        for split, part in splits.items():
            values = [row[quantity] for row in part.rows()[:-1]]
            axes.plot(range(len(values)), [np.nan if v is None else v for v in values], color=colour, markersize=4,
                      linewidth=1.3, label=f"{name}, {split}", **MARKS[split])
    over_bins(axes)


def of_sizes(rows: Sequence[Seen]) -> list[Panel]:
    """Histograms of sizes over their logarithm."""
    def sizes(axes: "Axes") -> None:
        edges = np.arange(1, 10.01, 0.5)
        for row, colour in zip(rows, ("#999999", COLOURS[0], COLOURS[1]), strict=True):
            counts = np.histogram(np.log2(row.sizes.clip(2, 2**10 - 1)), edges)[0]
            axes.stairs(counts / max(counts.sum(), 1), edges, color=colour, linewidth=1.5, label=row.what)
        for limit in BINS:
            axes.axvline(np.log2(limit), color="0.85", linewidth=0.8, zorder=0)
        axes.set_xticks(range(1, 11), [str(2**k) for k in range(1, 11)])
        axes.set_xlabel("size of an object, px")
        percents(axes, np.ceil(axes.get_ylim()[1] * 24) / 20)  # the legend stands above
        axes.set_title("Sizes that the loss sees")
        legend(axes)

    return [sizes]
