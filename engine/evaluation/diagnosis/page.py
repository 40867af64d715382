"""diagnosis.html: one page with everything, without scripts and without anything from elsewhere.

Names of classes, files and data are others' texts: each passes through `_safe`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from engine.evaluation.diagnosis.causes import BINS, CAUSES, FLOOR, IOU, KINDS
from engine.evaluation.diagnosis.charts import CAUSE_COLOURS, bars, keys, legend, reliability, stacked_bars
from engine.evaluation.diagnosis.diagnose import Diagnosis, View
from engine.evaluation.diagnosis.pictures import LEGEND, Picture
from utils.errors import printable
from utils.reporting.draw import class_name

MOST_CLASSES = 30  # rows of the table of classes
TIDE = (("Cls", "another class"), ("Loc", "badly placed"), ("Both", "another class, badly placed"),
        ("Dupe", "duplicate"), ("Bkg", "background"), ("Miss", "missed"))
STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #222; background: #fff;
  max-width: 970px; margin: 24px auto; padding: 0 20px; }
h1 { font-size: 25px; margin-bottom: 4px; } h2 { font-size: 20px; margin: 34px 0 6px; border-bottom: 1px solid #ccc; }
h3 { font-size: 16px; margin: 20px 0 4px; } p { max-width: 760px; } .small { font-size: .87em; color: #555; }
table { border-collapse: collapse; margin: 10px 0; font-size: .93em; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; }
th { font-weight: 600; } th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.sum td { font-weight: 600; border-top: 1px solid #999; } td.none { color: #aaa; }
.legend { list-style: none; padding: 0; margin: 6px 0; font-size: .87em; }
.legend li { display: inline-block; margin-right: 16px; }
.key { display: inline-block; width: 12px; height: 12px; margin-right: 6px; border: 1px solid #0003; }
figure { margin: 14px 0; } figcaption { font-size: .87em; color: #444; overflow-wrap: anywhere; }
figure img { max-width: 100%; height: auto; display: block; }
.crops { display: flex; flex-wrap: wrap; gap: 10px; } .crops figure { width: 150px; margin: 0; }
.crops figcaption { font-size: 11px; line-height: 1.3; }
dt { font-weight: 600; margin-top: 10px; } dd { margin: 0 0 0 20px; max-width: 740px; }
svg { max-width: 100%; height: auto; } .crops, figure, table, svg { break-inside: avoid; }
@media print { body { max-width: none; margin: 0; font-size: 12px; } h2, h3, h2 + p, .legend { break-after: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


def render_page(told: Diagnosis, header: Mapping[str, object], paths: Mapping[object, str], worst: Sequence[Picture],
                crops: Mapping[int, Sequence[Picture]]) -> str:
    """The page as HTML. header: what was evaluated, name -> value; paths: of the images, by record id; worst, crops: of
    `pictures`, at the first view."""
    first, every = told.views
    body = [f"<h1>Why objects are missed</h1>{_header(header)}", _lead(told),
            _view(told, first), _view(told, every), _rules(told), _classes(told, first), _alarms(told), _tide(told),
            _calibration(told), _crops(told, first, crops, paths), _worst(told, first, worst, paths), _advice(told)]
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>Diagnosis: {_safe(header.get('weights', ''))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(body) + "\n</body>\n</html>\n")


def _safe(value: object) -> str:
    """Any text for HTML: on one line, control characters and lone surrogates written out, markup escaped."""
    return escape(printable(" ".join(str(value).split())))


def _rows(rows: Sequence[Sequence[object]], heads: Sequence[str], total: int = -1) -> str:
    """A table; the first column is text, zeros are pale; total: the row that is a sum."""
    lines = ["<tr>" + "".join(f"<th>{_safe(head)}</th>" for head in heads) + "</tr>"]
    for k, row in enumerate(rows):
        cells = "".join(f'<td class="none">{value}</td>' if str(value) == "0" else f"<td>{_safe(value)}</td>"
                        for value in row)
        lines.append(f'<tr class="sum">{cells}</tr>' if k == total else f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _header(header: Mapping[str, object]) -> str:
    cells = "".join(f'<tr><td>{_safe(name)}</td><td class="text">{_safe(value)}</td></tr>'
                    for name, value in header.items())
    return f"<table>{cells}</table>"


def _lead(told: Diagnosis) -> str:
    total, (first, every) = int(told.counted.sum()), told.views
    small = np.isin(told.sizes, (0, 1, 2)) & told.counted
    return (f"<p>Of <strong>{total}</strong> objects <strong>{first.missed.sum()}</strong> are missed at confidence "
            f"{first.confidence:.3f}, where the mean F1 is highest: this is what a user sees. "
            f"<strong>{every.missed.sum()}</strong> are missed among all detections that AP sees, above confidence "
            f"{every.confidence:g}: no threshold recovers these. Of the {small.sum()} objects with sides below 32 "
            f"pixels these are {(first.missed & small).sum()} and {(every.missed & small).sum()}.</p>")


def _view(told: Diagnosis, view: View) -> str:
    table, totals = told.table(view), told.objects()
    used = np.flatnonzero(table.any(1))
    rows = [(CAUSES[r].title, *table[r], table[r].sum()) for r in used]
    missed = table.sum(0)
    shares = [f"{100 * m / t:.0f} %" if t else "-" for m, t in
              zip((*missed, missed.sum()), (*totals, totals.sum()), strict=True)]
    rows = [*rows, ("missed", *missed, missed.sum()), ("objects", *totals, totals.sum()), ("share missed", *shares)]
    titles = [word.title for word in CAUSES]
    return (f"<h2>Missed {view.title}: {view.missed.sum()} of {totals.sum()}</h2>"
            f'<p class="small">Confidence {view.confidence:.4g}, IoU {IOU}. Sizes are square roots of the areas of '
            "the boxes, in pixels of the original images.</p>"
            + (stacked_bars(table, totals, BINS, titles) + legend(used, titles) if len(used) else "")
            + _rows(rows, ("cause", *(f"{name} px" for name in BINS), "all"), total=len(used)))


def _rules(told: Diagnosis) -> str:
    terms = "".join(f"<dt>{_safe(word.title)}</dt><dd>{_safe(word.meaning)}</dd>" for word in CAUSES)
    inputs = told.sides * told.evidence.scale
    looked = told.counted & (told.evidence.scale > 0)
    size = (f" The median side of an object is {np.median(told.sides[looked]):.0f} px in the image and "
            f"{np.median(inputs[looked]):.0f} px as the model sees it." if looked.any() else "")
    return ("<h3>How a cause is found</h3><p>Hits are those of COCO's matching. A box belongs to the object that it "
            "overlaps most, so a neighbour's boxes say nothing of an object. The causes exclude each other; the first "
            "that holds, in this order, is the cause. What lies above the threshold is asked before what lies below. "
            f"Boxes count from a score of {min(FLOOR, told.config.conf):g} on, before any selection."
            f"{' The model answers with a set: nothing is suppressed.' if not told.suppresses else ''}{size}</p>"
            f"<dl class=\"small\">{terms}</dl>")


def _classes(told: Diagnosis, view: View) -> str:
    table = told.by_class(view)
    counts = np.bincount(told.truth.label[told.counted], minlength=table.shape[1])
    order = [k for k in np.argsort(-table.sum(0), kind="stable").tolist() if counts[k]]
    used = np.flatnonzero(table.any(1))
    rows = [(class_name(told.names, k), counts[k], table[:, k].sum(), *table[used, k]) for k in order[:MOST_CLASSES]]
    more = len(order) - len(rows)
    return ("<h2>By class</h2>" + _rows(rows, ("class", "objects", "missed", *(CAUSES[r].title for r in used)))
            + (f'<p class="small">{more} more classes are in diagnosis.json.</p>' if more > 0 else ""))


def _alarms(told: Diagnosis) -> str:
    columns = [told.alarms(view) for view in told.views]
    rows = [(f"{word.title}: {word.meaning}", *(column[k] for column in columns)) for k, word in enumerate(KINDS)]
    heads = ("kind, the first that holds", *(f"confidence {view.confidence:.4g}" for view in told.views))
    sums = "all", *(column.sum() for column in columns)
    return "<h2>False alarms</h2>" + _rows([*rows, sums], heads, total=len(rows))


def _tide(told: Diagnosis) -> str:
    if told.tide is None:
        return "<h2>TIDE</h2><p>Not computed: hotcoco is not installed, or there is nothing to judge.</p>"
    gain, counts = told.tide["delta_ap"], told.tide["counts"]
    rows = [(title, gain[key], f"{gain[key]:.4f} ({counts[key]})") for key, title in TIDE]
    return (f"<h2>TIDE: what costs AP</h2><p>AP50 is {told.tide['ap_base']:.4f}. A bar is what it would gain if the "
            "errors of one type alone were mended, with the number among all detections (Bolya et al. 2020). Gains do "
            f"not add up.</p>{bars(rows, 'Gain of AP50 by type of error')}"
            f'<p class="small">All false positives gone: +{gain["FP"]:.4f}; all false negatives gone: '
            f'+{gain["FN"]:.4f}.</p>')


def _calibration(told: Diagnosis) -> str:
    if told.calibration is None:
        return "<h2>Calibration</h2><p>Not computed: hotcoco is not installed, or there is nothing to judge.</p>"
    rows = [row for row in told.calibration["bins"] if row["count"]]
    upper = [(row["count"], abs(row["avg_confidence"] - row["avg_accuracy"])) for row in rows if row["bin_lower"] > 0]
    count = sum(number for number, _ in upper)
    error = f"over the {count} above {rows[0]['bin_upper']:g} it is {sum(n * e for n, e in upper) / count:.4f}" if (
        count) else "none scores higher than the lowest bin"
    table = _rows([(f"{row['bin_lower']:.1f} - {row['bin_upper']:.1f}", row["count"], f"{row['avg_confidence']:.3f}",
                    f"{row['avg_accuracy']:.3f}") for row in rows],
                  ("scores", "detections", "mean score", "share of hits"))
    return ("<h2>Calibration</h2><p>Below the diagonal the model is too sure, above it too modest. The expected "
            f"calibration error over all {told.calibration['num_detections']} detections is "
            f"{told.calibration['ece']:.4f}, in which each bin weighs as many as it holds; {error}.</p>"
            f"{reliability(rows)}{table}")


def _crops(told: Diagnosis, view: View, crops: Mapping[int, Sequence[Picture]], paths: Mapping[object, str]) -> str:
    if not crops:
        return ""
    parts = [f"<h2>Missed objects {view.title}, enlarged</h2><p>Of each cause up to twelve, evenly over the sizes of "
             f"those with sides below 32 pixels (of all, where there is none).</p>{keys(LEGEND)}"]
    for cause, pictures in crops.items():
        total = int((view.causes == cause).sum())
        figures = "".join(_crop(told, picture, paths) for picture in pictures)
        parts.append(f'<h3><span class="key" style="background:{CAUSE_COLOURS[cause]}"></span>'
                     f'{_safe(CAUSES[cause].title)}: {total}</h3><div class="crops">{figures}</div>')
    return "".join(parts)


def _crop(told: Diagnosis, picture: Picture, paths: Mapping[object, str]) -> str:
    row, said = picture.row, told.evidence
    name = class_name(told.names, told.truth.label[row])
    parts = [f"{name}, {told.sides[row]:.0f} px", f"best IoU {said.best_iou[row]:.2f}"]
    if said.right[row] > 0:
        parts.append(f"score {said.right[row]:.3f}")
    if said.other[row] >= 0.01:
        parts.append(f"as {class_name(told.names, said.other_label[row])} {said.other[row]:.2f}")
    text = "; ".join([", ".join(parts), _file(told, told.truth.image[row], paths)])
    return f"<figure>{_image(picture, name)}<figcaption>{_safe(text)}</figcaption></figure>"


def _worst(told: Diagnosis, view: View, worst: Sequence[Picture], paths: Mapping[object, str]) -> str:
    if not worst:
        return ""
    figures = []
    for picture in worst:
        own = told.truth.image == picture.row
        alarms = (view.alarms & (told.found.images == picture.row)).sum()
        text = (f"{_file(told, picture.row, paths)}: {(view.missed & own).sum()} of {(told.counted & own).sum()} "
                f"objects missed, {alarms} false alarms")
        figures.append(f"<figure>{_image(picture, text)}<figcaption>{_safe(text)}</figcaption></figure>")
    return (f"<h2>The worst images</h2><p>Those with most missed objects {view.title}; of equal ones those with more "
            f"false alarms.</p>{keys(LEGEND)}{''.join(figures)}")


def _image(picture: Picture, text: str) -> str:
    if not picture.uri:
        return "<p>cannot be decoded</p>"
    width, height = picture.size
    return f'<img src="{picture.uri}" width="{width}" height="{height}" alt="{_safe(text)}">'


def _file(told: Diagnosis, place: int, paths: Mapping[object, str]) -> str:
    return Path(paths.get(told.truth.record_ids[place], str(told.truth.image_ids[place]))).name


def _advice(told: Diagnosis) -> str:
    first, every = (told.table(view).sum(1) for view in told.views)
    order = [k for k in np.argsort(-first, kind="stable").tolist() if first[k] or every[k]]
    if not order:
        return "<h2>What this suggests</h2><p>Nothing is missed.</p>"
    terms = "".join(f"<dt>{_safe(CAUSES[k].title)}: {first[k]} ({every[k]} among all detections)</dt>"
                    f"<dd>{_safe(CAUSES[k].advice)}</dd>" for k in order)
    return ("<h2>What this suggests</h2><p>The most frequent cause first. These are places to look, not proofs: a "
            f"cause says where an object was lost, not why the model came to be so.</p><dl>{terms}</dl>")
