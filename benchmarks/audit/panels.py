"""What each panel of the picture draws.

Legend: L levels of the pyramid.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.audit.figure import COLOURS, LABELS, SHADES, Panel, legend, over_bins, percents
from benchmarks.audit.gradients import PLACES, Gradients, shares
from benchmarks.audit.neck import Example, NeckRecord
from benchmarks.audit.neck_report import gate_aucs, level_shares
from benchmarks.audit.positives import Splits
from benchmarks.audit.section import BIN_NAMES, level_title
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


def of_neck(record: NeckRecord, seed: int) -> list[Panel]:
    """The gate's AUC, the shares of levels, and images under the gate, where the row has these."""
    def auc(axes: "Axes") -> None:
        told = list(gate_aucs(record, seed).values())[:len(LABELS)]
        for part, shift, colour, label in ((1, -0.1, COLOURS[0], "its own objects"),
                                           (2, 0.1, "#999999", "objects of another image")):
            for k, mean in enumerate(row[part] for row in told):
                if mean.value is not None:
                    low, high = (mean.value,) * 2 if mean.low is None else (mean.low, mean.high)
                    axes.plot([k + shift] * 2, [low, high], color=colour, linewidth=2)
                    axes.plot(k + shift, mean.value, "o", color=colour, markersize=4.5, label=label)
                    label = None
        axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
        over_bins(axes)
        axes.set_ylim(0, 1)
        axes.set_title("Does the gate look at objects? AUC, 95 %")
        legend(axes)

    def levels(axes: "Axes") -> None:
        shares = level_shares(record)
        names = [name for name in shares if name != "all pixels"]
        table = np.array([shares[name] for name in names])
        for level, title in enumerate(record.levels):
            axes.bar(range(len(names)), table[:, level], 0.75, table[:, :level].sum(1), color=SHADES[level],
                     edgecolor="white", linewidth=0.4, label=title)
        short = dict(zip(BIN_NAMES, LABELS, strict=True))
        axes.set_xticks(range(len(names)), [short.get(name, "backgr.") for name in names])
        axes.set_xlabel("pixels of objects of a size, px")
        percents(axes)
        axes.set_title("What each level gives to the neck")
        legend(axes, loc="upper center", ncols=len(record.levels), bbox_to_anchor=(0.5, -0.17), handlelength=1)

    return [auc] * bool(record.objects) + [levels] * bool(record.shares) + [
        _example(example) for example in record.examples]


def of_gradients(found: Gradients, strides: Sequence[int]) -> list[Panel]:
    """Shares of the gradient by level and term, and by the cells that it arrives in beside their number."""
    def levels(axes: "Axes") -> None:
        table, count = shares(found.terms), len(found.levels)
        for row, name, colour in zip(range(len(table)), found.names, COLOURS, strict=False):
            axes.bar(range(count), table[row], 0.7, table[:row].sum(0), color=colour, edgecolor="white", linewidth=0.4,
                     label=name)
        axes.set_xticks(range(count), [level_title(k, strides).replace("stride ", "/") for k in range(count)])
        axes.set_xlabel("map that the head reads")
        percents(axes, max(0.2, np.ceil(table.sum(0).max() * 5) / 5))
        axes.set_title("Gradient by level and term")
        legend(axes)

    def places(axes: "Axes") -> None:
        for values, shift, colour, label in ((found.cells, -0.2, "#999999", "of the cells"),
                                             (found.places, 0.2, COLOURS[0], "of the gradient")):
            axes.bar(np.arange(len(PLACES)) + shift, shares(values.sum(0)), 0.38, color=colour, label=label)
        axes.set_xticks(range(len(PLACES)), ["backgr.", *LABELS])
        axes.set_xlabel("cells inside objects of a size, px")
        percents(axes)
        axes.set_title("Where the gradient arrives")
        legend(axes)

    return [levels, places]


def _example(example: Example) -> Panel:
    """An image under its gate, from its least to its greatest value."""
    def picture(axes: "Axes") -> None:
        height, width = example.image.shape[:2]
        axes.imshow(example.image)
        heat = axes.imshow(example.gate, cmap="inferno", alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        for x1, y1, x2, y2 in example.boxes:
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="#00e5ff", linewidth=0.7)
        axes.set_axis_off()
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axes.set_title("The gate on an image")
        axes.figure.colorbar(heat, ax=axes, fraction=0.04, pad=0.02).ax.tick_params(labelsize=6)

    return picture
