"""YOLO txt: a file per image, a row per object: class, centre x, centre y, width, height as fractions of the image.

A row of a class and three or more points is a polygon: the box around it, and its outline where polygons are asked
for. The label file of `.../images/a/b.jpg` is `.../labels/a/b.txt`; that of an image outside an `images` folder lies
beside it.
"""

import os
from pathlib import Path

import numpy as np

from data.formats.raw import Unchecked, ids_from_names, image_files, read_lines
from data.records import NO_POLYGON
from data.report import ScanReport
from data.source import Source
from utils.errors import UserError


def recognises(entry: Path, images: list[str]) -> bool:
    """What no other format knows."""
    return True


def inputs(source: Source) -> list[str]:
    """Lists, images and label files, those that are not there included: they may come."""
    images = split_images(source, ScanReport())
    return [str(e) for e in source.entries if e.is_file()] + images + [label_file(p) for p in images]


def read(source: Source, report: ScanReport, polygons: bool = False) -> Unchecked:
    """All rows of a split. `UserError` where the YAML has no classes."""
    names = source.names or [f"class{i}" for i in range(source.nc or 0)]
    if not names:
        raise UserError(f"{source.yaml}: no `names` and no `nc`; add a line such as `names: [person, car]`")
    images = split_images(source, report)
    files = [label_file(p) for p in images]
    parts: list[np.ndarray] = []  # of (rows, 6): class, x1, y1, x2, y2, line
    counts: list[int] = []
    keep: list[int] = []
    outlines: list[np.ndarray] | None = [] if polygons else None
    for i, file in enumerate(files):
        try:
            text = _text(Path(file).read_bytes())
        except FileNotFoundError:
            report.add("missing_label", f"{file} for {images[i]}")
            text = ""
        except (OSError, UnicodeDecodeError) as error:
            report.add("corrupt_label", f"{file} ({error})")
            continue
        rows = parse_rows(text, file, report, outlines)
        keep.append(i)
        parts.append(rows)
        counts.append(len(rows))
    report.notes += source.notes
    table = np.concatenate([np.zeros((0, 6)), *parts])
    ids = ids_from_names(images)
    paths, files, ids = ([column[i] for i in keep] for column in (images, files, ids))
    return Unchecked(paths, files, ids,
                     np.zeros((len(paths), 2), np.int64), np.repeat(np.arange(len(paths)), counts), table[:, 1:5],
                     _class(table[:, 0]), np.zeros(len(table), bool), np.full(len(table), np.nan),
                     np.arange(1, len(table) + 1), table[:, 5].astype(np.int64), names,
                     list(range(1, len(names) + 1)), normalised=True, polygons=outlines)


def parse_rows(text: str, file: str, report: ScanReport, outlines: list[np.ndarray] | None = None) -> np.ndarray:
    """(rows, 6) float64: class, x1, y1, x2, y2 in fractions, line number. Other rows are counted and left out.

    outlines: where given, the polygon (k, 2) float32 of every row is appended, k = 0 for a row that is a box.
    """
    rows = []
    outlines = [] if outlines is None else outlines
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        values = _numbers(words)
        if not values or len(values) == 6:
            values = _repaired(line, values)
            if values:
                report.add("mended_row", f"{file} line {number}: {line.strip()[:60]!r}")
        n = len(values)
        if not (n == 5 or (n >= 7 and n % 2)) or not all(map(np.isfinite, values)) or values[0] % 1:
            report.add("corrupt_row", f"{file} line {number}: {line.strip()[:60]!r}; expected class x y width height")
        elif n == 5:
            kind, x, y, width, height = values
            rows.append((kind, x - width / 2, y - height / 2, x + width / 2, y + height / 2, number))
            outlines.append(NO_POLYGON)
        else:
            xs, ys = values[1::2], values[2::2]
            rows.append((values[0], min(xs), min(ys), max(xs), max(ys), number))
            outlines.append(np.array(values[1:], np.float32).reshape(-1, 2))
    return np.array(rows, np.float64).reshape(-1, 6)


def label_file(image: str) -> str:
    """Where the labels of an image lie."""
    stem = os.path.splitext(image)[0]  # noqa: PTH122  Path costs 10x here, and there may be 100k
    before, images, after = stem.rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}.txt" if images else f"{stem}.txt"


def _text(data: bytes) -> str:
    """Label files written on Windows may begin with a byte order mark, in UTF-8 or UTF-16."""
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _numbers(words: list[str]) -> list[float]:
    """The words as numbers, none where one of them is no number."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return []


def _repaired(line: str, values: list[float]) -> list[float]:
    """A row that can mean one thing only: commas or semicolons between the numbers, or a confidence after the box.

    Empty where it may mean something else or nothing.
    """
    values = values or _numbers(line.replace(";", " ").replace(",", " ").split())
    if len(values) == 6 and 0 <= values[5] <= 1:  # as `detect.py --save-txt --save-conf` writes it
        values = values[:5]
    usable = len(values) == 5 and all(map(np.isfinite, values)) and values[0] % 1 == 0
    return values if usable else []


def split_images(source: Source, report: ScanReport) -> list[str]:
    """The images of folders and lists, each once."""
    found: list[str] = []
    for entry in source.entries:
        found += _listed(entry, source.root) if entry.is_file() else image_files(entry)
    once = list(dict.fromkeys(found))
    if len(once) < len(found):
        seen: set[str] = set()
        first = next(p for p in found if p in seen or seen.add(p))
        report.add("repeated_image", first, len(found) - len(once))
    return once


def _listed(entry: Path, root: Path) -> list[str]:
    """The images that a list file names; relative ones lie beside it, in `path`, or where the command runs."""
    if entry.suffix.lower() != ".txt":
        raise UserError(f"{entry}: a split should be a folder or a list of images ending in .txt")
    lines = read_lines(entry)
    bases = [entry.parent, root, Path.cwd()]
    base = next((b for b in bases if lines and (b / lines[0]).exists()), entry.parent)
    return [os.path.normpath(os.path.join(base, line)) for line in lines]  # noqa: PTH118


def _class(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -1, np.iinfo(np.int32).max).astype(np.int64)
