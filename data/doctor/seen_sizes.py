"""Sizes of objects as the loss sees them, after mosaic, scale, crop and tiles, beside those of labels and validation.

Samples are planned as in a training (`DetectionDataset.plan`), so labels are those of its batches; no pixel is read.

Legend: N objects; the size of an object is the root of its visible area, in pixels of the frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from data.augment.geometry import Array, BoxFilter, Labels, layer_labels
from data.augment.policies.policy import Policy
from data.images.placement import Placement
from data.index import Index
from data.labels.records import RecordTable
from data.object_sizes import object_sizes
from utils.frame import Frame

BINS = (8, 16, 32, 96)  # px
ALIKE = 1.1  # ratio of medians up to which sizes are called the same
IN_TRAINING = "seen in training"
ANY = 1e12  # an aspect that no box has
REASONS = ("side", "area", "aspect", "centre")


@dataclass(frozen=True, eq=False)
class Seen:
    """Sizes (N,) of a row of the table. shown: how many objects reached into the frames before boxes were filtered, of
    which `left_out` says what filtered how many: see `BoxFilter`, "centre" where it lies outside a crop."""

    what: str
    sizes: Array
    shown: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def shares(self) -> Array:
        """Of the objects, by size bin."""
        return np.bincount(np.digitize(self.sizes, BINS), minlength=len(BINS) + 1) / max(len(self.sizes), 1)

    @property
    def median(self) -> float:
        return float(np.median(self.sizes)) if len(self.sizes) else float("nan")


class CountingFilter:
    """A `BoxFilter` that counts what it leaves out, ignore regions aside, by the first rule that does."""

    def __init__(self, rule: BoxFilter) -> None:
        self.rule, self.shown, self.kept, self.left_out = rule, 0, 0, dict.fromkeys(REASONS, 0)

    def __call__(self, before: Array, after: Array, zoom: float, ignore: Array) -> Array:
        last = (after[:, 2:] > after[:, :2]).all(1) & ~ignore
        self.shown += int(last.sum())
        steps = (BoxFilter(self.rule.min_side, 0, ANY), BoxFilter(self.rule.min_side, self.rule.min_area, ANY),
                 self.rule)
        for reason, rule in zip(REASONS, steps, strict=False):
            kept = last & rule(before, after, zoom, ignore)
            self.left_out[reason] += int(last.sum() - kept.sum())
            last = kept
        self.kept += int(last.sum())
        return self.rule(before, after, zoom, ignore)


def frame_of(policy: Policy, imgsz: int) -> Frame:
    """Frames of the models that a policy was made for, at a size: the side, or the shorter side."""
    if policy.fit == "stretch":
        return Frame(fit="stretch", size=(imgsz, imgsz), multiple=1)
    plain = Frame(fit=policy.fit)
    return plain if policy.fit == "letterbox" else Frame(
        fit=policy.fit, short=imgsz, long=plain.resolve([imgsz])[1], pad="corner")


def labelled(what: str, index: Index, frame: Frame, imgsz: int) -> Seen:
    """Objects of a split as its labels have them, each image alone in its frame."""
    sides = object_sizes(index.records, Placement.of(frame, imgsz), least=0.0).astype(np.float64)
    return Seen(what, np.sqrt(sides.prod(1)), len(sides))


def augmented(index: Index, policy: Policy, imgsz: int, samples: int, seed: int = 0, mosaic: bool = True) -> Seen:
    """Objects of so many training samples, in the order of a training with this seed: several epochs, where there are
    fewer images. mosaic: False for its last epochs, which show none."""
    from data.loading.build import train_loader  # these import torch, which the doctor's other reports do without
    from data.loading.config import LoaderConfig

    dataset = train_loader(index, imgsz, policy, LoaderConfig(1, seed=seed, frame=frame_of(policy, imgsz))).dataset
    table, counter = RecordTable.from_records(index.records), CountingFilter(policy.box_filter)
    sizes, inside = [np.zeros(0)], 0
    for number in range(samples):
        key = (*divmod(number, len(table)), mosaic)
        plan, labels, _ = dataset.plan(key)
        sides = (labels.boxes[:, 2:] - labels.boxes[:, :2])[~labels.ignore]
        sizes.append(np.sqrt(sides.astype(np.float64).prod(1)))
        for layer in plan.layers:
            parts = [Labels(*table.targets(tile.index)) for tile in layer.tiles]
            inside += int((~layer_labels(layer, parts, dataset.frame(key), counter).ignore).sum())
    what = IN_TRAINING if mosaic else "seen with mosaic closed"
    return Seen(what, np.concatenate(sizes), counter.shown, {**counter.left_out, "centre": counter.kept - inside})


def format_table(rows: Sequence[Seen]) -> str:
    """Objects, median size and shares by size bin; then what the box filter left out."""
    edges = ["< 8 px", *(f"{low}-{high}" for low, high in zip(BINS, BINS[1:], strict=False)), f">= {BINS[-1]}"]
    wide = max(len(row.what) for row in rows) + 2
    lines = [f"{'':<{wide}}{'objects':>9}{'median px':>11}" + "".join(f"{edge:>9}" for edge in edges)]
    lines += [f"{row.what:<{wide}}{len(row.sizes):>9,}{row.median:>11.1f}"
              + "".join(f"{share:>9.1%}" for share in row.shares) for row in rows]
    words = {"side": "a side too short", "area": "too little of it visible", "aspect": "too thin",
             "centre": "its centre outside the crop"}
    for row in rows:
        if row.left_out:
            found = ", ".join(f"{n / max(row.shown, 1):.1%} {words[k]}" for k, n in row.left_out.items() if n)
            lines.append(f"{row.what}: of {row.shown:,} boxes that reach into the frames the filter leaves out "
                         f"{found or 'none'}")
    return "\n".join(lines)


def difference(training: Seen, validation: Seen) -> str:
    """A sentence: how the sizes of training differ from those of validation."""
    if not len(training.sizes) or not len(validation.sizes):
        return f"nothing to compare: {(training if not len(training.sizes) else validation).what} has no object"
    ratio = training.median / validation.median
    medians = f"medians {training.median:.1f} and {validation.median:.1f} px"
    gap = training.shares - validation.shares
    worst = int(np.abs(gap).argmax())
    limits = (0, *BINS, None)
    where = (f"of {limits[worst]} px or more" if limits[worst + 1] is None else f"below {limits[worst + 1]} px" if
             worst == 0 else f"of {limits[worst]} to {limits[worst + 1]} px")
    shares = (f"objects {where} are {training.shares[worst]:.0%} in training and {validation.shares[worst]:.0%} in "
              "validation, the largest difference")
    if max(ratio, 1 / ratio) <= ALIKE:
        return f"objects are about as large in training as in validation ({medians}); {shares}"
    return f"objects are {ratio:.2g}x as large in training as in validation ({medians}); {shares}"


def to_json(rows: Sequence[Seen], policy: Policy, said: str) -> dict[str, Any]:
    """The table as plain data."""
    return {"bins": list(BINS), "difference": said,
            "augmentation": {"policy": type(policy).__name__, **asdict(policy)},
            "rows": [{"what": row.what, "objects": len(row.sizes), "median": row.median if len(row.sizes) else None,
                      "shares": row.shares.tolist(), "shown": row.shown, "left_out": dict(row.left_out)}
                     for row in rows]}


def describe(policy: Policy) -> str:
    """The words of a policy that are not 0."""
    values = {f.name: getattr(policy, f.name) for f in fields(policy) if f.name != "fill"}
    return ", ".join(f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
                     for name, value in values.items() if value)


def plot_sizes(rows: Sequence[Seen], path: Path) -> None:
    """Histograms of the sizes over their logarithm to base 2, a line for each row."""
    from utils.reporting.plots import new_figure, write_figure

    edges = np.arange(0, 11.01, 0.25)
    figure = new_figure(7.5, 4)
    axes = figure.add_subplot()
    for row in rows:
        counts = np.histogram(np.log2(row.sizes.clip(1, 2**11)), edges)[0]
        axes.stairs(counts / max(counts.sum(), 1), edges, label=f"{row.what} ({len(row.sizes):,})", linewidth=1.5)
    for limit in BINS:
        axes.axvline(np.log2(limit), color="0.8", linewidth=0.8, zorder=0)
    axes.set_xticks(range(0, 12), [str(2**k) for k in range(0, 12)])
    axes.set_xlabel("size of an object in the frame: root of its visible area, px")
    axes.set_ylabel("share of the objects")
    axes.legend(fontsize=8)
    write_figure(figure, path)
