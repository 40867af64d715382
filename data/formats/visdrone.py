"""VisDrone-DET as published: `images` and `annotations`, a row of eight whole numbers per object.

left, top, width, height in pixels, score, category, truncation, occlusion. Categories 1 to 10 are the classes. Category
0 (ignored regions) and 11 (others) are ignore regions of every class; an object of score 0 is one of its own class, as
in VisDrone's evaluation. All of them are excluded from the loss, and a detection in them counts neither way.
"""

import re
from pathlib import Path

import numpy as np

from data.data_yaml import Source
from data.formats.parsing import pixel_rows
from data.formats.parsing.pixel_rows import plain
from data.formats.raw_labels import RawLabels
from data.labels.scan_report import ScanReport
from utils.errors import UserError

CLASSES = ("pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor")
REGIONS, OTHERS = 0, 11  # categories that are no class
COLUMNS = 8
FOLDER = "annotations"


def recognises(entry: Path, images: list[str]) -> bool:
    """Label files whose first row is eight numbers between commas."""
    return pixel_rows.sniff(entry, images, FOLDER, _is_row)


def inputs(source: Source) -> list[str]:
    """Lists, images and label files."""
    return pixel_rows.inputs(source, pixel_rows.pairs(source, FOLDER, ScanReport()))


def read(source: Source, report: ScanReport, polygons: bool = False) -> RawLabels:
    """All objects of a split, and what is to be ignored. polygons: as in the other formats; VisDrone has none."""
    names, categories = _classes(source, report)
    pairs, image, rows = pixel_rows.read_rows(pixel_rows.pairs(source, FOLDER, report), parse_rows, report)
    table = np.array(rows, np.float64).reshape(-1, 7)
    category = table[:, 4].astype(np.int64)
    everywhere = (category == REGIONS) | (category == OTHERS)
    to_label = np.full(OTHERS + 1, -1)
    to_label[categories] = np.arange(len(categories))
    to_label[[REGIONS, OTHERS]] = 0
    unscored = (table[:, 5] == 0) & ~everywhere
    keep = to_label[category] >= 0
    if not keep.all():
        first = int(np.flatnonzero(~keep)[0])
        report.add("other_class", f"{pairs[image[first]][1]} line {int(table[first, 6])} "
                                  f"({CLASSES[category[first] - 1]})", int((~keep).sum()))
    report.notes += source.notes + _counts(category, unscored & keep)
    table, category, everywhere, unscored = table[keep], category[keep], everywhere[keep], unscored[keep]
    return RawLabels(paths=[p for p, _ in pairs], label_files=[f for _, f in pairs],
                     image=np.array(image, np.int64)[keep], boxes=table[:, :4], labels=to_label[category],
                     ignore=everywhere | unscored, rows=table[:, 6].astype(np.int64), names=names,
                     category_ids=categories, all_classes=everywhere)


def parse_rows(text: str, file: str, report: ScanReport) -> list[tuple]:
    """x1, y1, x2, y2, category, score, line number of every row. Other rows are counted and left out."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        values = _values(line)
        if len(values) != COLUMNS or values[5] % 1:
            report.add("corrupt_row", f"{file} line {number}: {line.strip()[:60]!r}; expected "
                                      "left,top,width,height,score,category,truncation,occlusion")
        elif not REGIONS <= values[5] <= OTHERS:
            report.add("bad_class", f"{file} line {number}, category {values[5]:g}; VisDrone has 0 to {OTHERS}")
        else:
            left, top, width, height, score, category = values[:6]
            rows.append((left, top, left + width, top + height, category, score, number))
    return rows


def _values(line: str) -> list[float]:
    """The numbers of a row; a comma may end it."""
    return pixel_rows.numbers(re.split(r"\s*[,;]\s*|\s+", line.replace('"', " ").strip().rstrip(",; ")))


def _is_row(line: str) -> bool | None:
    if not line:
        return None
    values = _values(line) if "," in line else []
    return len(values) == COLUMNS and max(values[:4]) > 1 and not any(v % 1 for v in values[5:])  # pixels, no fractions


def _counts(category: np.ndarray, unscored: np.ndarray) -> list[str]:
    """What became an ignore region, in words."""
    regions, others = int((category == REGIONS).sum()), int((category == OTHERS).sum())
    notes = []
    if regions or others:
        notes.append(f"{regions} ignored regions (category 0) and {others} of `others` (category 11) are ignore "
                     f"regions of every class")
    if unscored.any():
        notes.append(f"{int(unscored.sum())} objects of score 0 are ignore regions of their own class")
    return notes


def _classes(source: Source, report: ScanReport) -> tuple[list[str], list[int]]:
    """Names and categories by label: all ten, those that `names` chooses, or ten under other names in their order."""
    known = {plain(name): k for k, name in enumerate(CLASSES, 1)}
    names = list(CLASSES) if source.names is None else source.names
    categories = [known.get(plain(name), 0) for name in names]
    in_order = all(found in (0, k) for k, found in enumerate(categories, 1))
    if source.names is None and source.nc not in (None, len(CLASSES)) or not (
            all(categories) and len(set(categories)) == len(names) or len(names) == len(CLASSES) and in_order):
        raise UserError(f"{source.yaml}: `{'nc' if source.names is None else 'names'}` does not fit VisDrone's ten "
                        f"classes; leave it out, or name some of them or all ten in this order: {', '.join(CLASSES)} "
                        f"(ignored regions and others are no classes)", "unknown-class")
    if not all(categories):
        other = [f"{CLASSES[k]} as {names[k]}" for k, found in enumerate(categories) if not found]
        report.notes.append(f"VisDrone's classes are taken in their order, {', '.join(other)}")
        categories = list(range(1, len(CLASSES) + 1))
    return names, categories
