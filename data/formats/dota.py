"""DOTA as published: `images` and `labelTxt`, a row of four corners in pixels, class and difficult flag per object.

A rotated box is read as the upright box around its corners. `difficult` objects are ignore regions unless the YAML says
`difficult: keep`. Head lines (`imagesource:`, `gsd:`) may be missing, and so may the flag.
"""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.data_yaml import SPLITS, Source, read_source
from data.formats.parsing import pixel_rows
from data.formats.parsing.pixel_rows import plain
from data.formats.raw_labels import RawLabels
from data.labels.scan_report import ScanReport
from utils.errors import UserError, nearest

# DOTA-v1.0's fifteen, then container-crane of v1.5, airport and helipad of v2.0
CLASSES = ("plane", "ship", "storage-tank", "baseball-diamond", "tennis-court", "basketball-court",
           "ground-track-field", "harbor", "bridge", "large-vehicle", "small-vehicle", "helicopter", "roundabout",
           "soccer-ball-field", "swimming-pool", "container-crane", "airport", "helipad")
FOLDER = "labelTxt.*"  # labelTxt-v1.5 and so on
HEAD = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)


def recognises(entry: Path, images: list[str]) -> bool:
    """Label files whose first row is eight numbers and a word, or that begin with DOTA's head lines."""
    return pixel_rows.sniff(entry, images, FOLDER, _is_row)


def inputs(source: Source) -> list[str]:
    """Lists, images and label files; those of the other splits too where the classes are collected from all."""
    found = [pair for part in _parts(source) for pair in pixel_rows.pairs(part, FOLDER, ScanReport())]
    return pixel_rows.inputs(source, found)


def read(source: Source, report: ScanReport, polygons: bool = False) -> RawLabels:
    """All objects of a split; polygons: the corners as outlines, for copy-paste."""
    pairs, image, rows = pixel_rows.read_rows(pixel_rows.pairs(source, FOLDER, report), parse_rows, report)
    names = source.names or _found_names(source)
    exact, spelled = ({key(n): k for k, n in enumerate(names)} for key in (str, plain))
    label = np.array([exact.get(row[1], spelled.get(plain(row[1]), -1)) for row in rows], np.int64)
    files = [file for _, file in pairs]
    for k in np.flatnonzero(label < 0).tolist():
        word, where = rows[k][1], f"{files[image[k]]} line {rows[k][3]}: {rows[k][1]!r}"
        if plain(word) in map(plain, CLASSES):
            report.add("other_class", where)
        else:
            report.add("bad_class", f"{where}; {nearest(word, names) or 'known: ' + ', '.join(names)}")
    keep = label >= 0
    corners = np.array([row[0] for row in rows], np.float64).reshape(-1, 4, 2)[keep]
    difficult = np.array([row[2] for row in rows], bool)[keep]
    low, high = corners.min(1), corners.max(1)
    rotated = int(((corners != low[:, None]) & (corners != high[:, None])).any((1, 2)).sum())
    report.notes += source.notes
    if rotated:
        report.notes.append(f"{rotated} of {len(corners)} boxes are rotated: read as the upright boxes around them")
    if difficult.any():
        became = "kept as objects" if source.difficult == "keep" else "ignore regions of their class"
        report.notes.append(f"{int(difficult.sum())} difficult objects are {became}")
    return RawLabels(paths=[p for p, _ in pairs], label_files=files, image=np.array(image, np.int64)[keep],
                     boxes=np.concatenate((low, high), 1), labels=label[keep], names=names,
                     ignore=difficult & (source.difficult != "keep"),
                     rows=np.array([row[3] for row in rows], np.int64)[keep],
                     polygons=list(corners.astype(np.float32)) if polygons else None)


def parse_rows(text: str, file: str, report: ScanReport) -> list[tuple]:
    """(eight numbers, class, difficult, line number) of every row. Other rows are counted and left out."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or HEAD.match(line.strip()):
            continue
        found = _row(line)
        if found is None:
            report.add("corrupt_row", f"{file} line {number}: {line.strip()[:60]!r}; expected x1 y1 x2 y2 x3 y3 x4 y4 "
                                      "class difficult")
        else:
            rows.append((*found, number))
    return rows


def _row(line: str) -> tuple[list[float], str, bool] | None:
    """Corners, class and flag; None where the line is no row."""
    words = line.replace(",", " ").split()
    corners = pixel_rows.numbers(words[:8])
    flag = pixel_rows.numbers(words[9:][-1:])  # of the words behind the class
    name = " ".join(words[8:len(words) - len(flag)])
    return (corners, name, bool(flag and flag[0])) if len(corners) == 8 and name else None


def _is_row(line: str) -> bool | None:
    if not line:
        return None
    found = _row(line)
    if found is None or pixel_rows.numbers(found[1].split()[:1]):
        return bool(HEAD.match(line))
    return max(found[0][1:]) > 2  # pixels; a row of YOLO with a slip in it has fractions behind its class


def _parts(source: Source) -> list[Source]:
    """The splits whose class names count: this one, and without `names` all of the YAML's."""
    parts = [source]
    for split in SPLITS if source.names is None else ():
        with suppress(UserError):
            part = read_source(source.yaml, split)
            if split != source.split and part.format == source.format:
                parts.append(part)
    return parts


def _found_names(source: Source) -> list[str]:
    """The class names in the label files of all splits, sorted, so that each split has the same classes."""
    names: set[str] = set()
    for part in _parts(source):
        found = pixel_rows.pairs(part, FOLDER, ScanReport())
        names |= {row[1] for row in pixel_rows.read_rows(found, parse_rows, ScanReport())[2]}
    if not names or source.nc not in (None, len(names)):
        raise UserError(f"{source.yaml}: no `names`, and {len(names)} classes in the label files"
                        f"{'' if source.nc is None else f', not `nc: {source.nc}`'}; add a line such as "
                        f"`names: [{', '.join(sorted(names) or CLASSES[:15])}]`", "no-classes")
    return sorted(names)
