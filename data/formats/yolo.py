"""YOLO txt: a file per image, a row per object: class, centre x, centre y, width, height as fractions of the image.

Other rows: `data.formats.parsing.yolo_rows`. A polygon gives the box around it, and its outline where polygons
are asked for. The label file of `.../images/a/b.jpg` is `.../labels/a/b.txt`, or lies beside the image.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from data.data_yaml import Source
from data.formats.parsing.yolo_rows import EDGE, FEW, SHARE, Columns, parse_rows
from data.formats.paths import Folders, image_files, label_files, listed_images
from data.formats.raw_labels import RawLabels, ids_from_names
from data.labels.scan_report import ScanReport
from utils.errors import UserError, short
from utils.files import read_plain

LARGEST = 1 << 26  # bytes of a label file
MOST_LOOKED_AT = 1000  # label files without an image that are opened; further ones count by their name


def recognises(entry: Path, images: list[str]) -> bool:
    """What no other format knows."""
    return True


def inputs(source: Source) -> list[str]:
    """Lists, images and label files, those that are not there included: they may come."""
    images = split_images(source, ScanReport())
    return [str(e) for e in source.entries if e.is_file()] + images + label_files(images)


def read(source: Source, report: ScanReport, polygons: bool = False) -> RawLabels:
    """All rows of a split. `UserError` where the YAML has no classes, or where the ids do not fit them."""
    names = source.names or [f"class{i}" for i in range(source.nc or 0)]
    if not names:
        raise UserError(f"{source.yaml}: no `names` and no `nc`; add a line such as `names: [person, car]`",
                        "no-classes")
    images = split_images(source, report)
    files = label_files(images)
    _report_shared(images, files, report)
    if all(entry.is_dir() for entry in source.entries):  # a list may leave images out
        _report_lonely(images, files, report)
    outlines: list[np.ndarray] | None = [] if polygons else None
    columns = Columns(source.keypoints)
    parts, keep = _read_all(images, files, report, outlines, columns,
                            {name: i + source.first_id for i, name in enumerate(names)})
    report.notes += source.notes
    table = np.concatenate([np.zeros((0, 6)), *parts])
    image = np.repeat(np.arange(len(keep)), [len(part) for part in parts])
    right = columns.settle(table, report, outlines, source.yaml)
    _check_corners(table, files, keep, image)
    if not right.all():
        table, image = table[right], image[right]
        outlines = None if outlines is None else [outlines[i] for i in np.flatnonzero(right)]
    ids = ids_from_names(images)
    paths, files, ids = ([column[i] for i in keep] for column in (images, files, ids))
    labels = np.clip(table[:, 0], -1, np.iinfo(np.int32).max).astype(np.int64)
    _check_first_id(source, labels, len(names), files, image)
    return RawLabels(paths=paths, label_files=files, image_ids=ids, image=image, boxes=table[:, 1:5],
                     labels=labels - source.first_id, rows=table[:, 5].astype(np.int64), names=names, normalised=True,
                     polygons=outlines)


def _read_all(images: list[str], files: list[str], report: ScanReport, outlines: list[np.ndarray] | None,
              columns: Columns, names: dict[str, int]) -> tuple[list[np.ndarray], list[int]]:
    """The rows (k, 6) of every label file that can be read or is absent, and the positions of these files."""
    parts: list[np.ndarray] = []  # class, x1, y1, x2, y2, line
    keep: list[int] = []
    for i, file in enumerate(files):
        try:
            text = _read(file)
        except FileNotFoundError:
            report.add("missing_label", f"{file} for {images[i]}")
            text = ""
        except (OSError, ValueError) as error:
            report.add("corrupt_label", f"{file} ({error})")
            continue
        keep.append(i)
        parts.append(parse_rows(text, file, report, outlines, columns, names))
    return parts, keep


def _report_shared(images: list[str], files: list[str], report: ScanReport) -> None:
    """a.jpg and a.png have one a.txt: it is read for both."""
    if len(set(files)) < len(files):
        first: dict[str, int] = {}
        twice = [i for i, file in enumerate(files) if first.setdefault(file, i) != i]
        i = twice[0]
        report.add("shared_label", f"{files[i]} for {images[first[files[i]]]} and {images[i]}", len(twice))


def _report_lonely(images: list[str], files: list[str], report: ScanReport) -> None:
    """Count label files in the folders of labels whose image is not in the folder of images."""
    listing, counts = Folders(), Counter([file.rpartition(os.sep)[0] for file in files])
    more = {folder for folder, count in counts.items()
            if len(listing.names(folder)) > count
            and sum(name[-4:].lower() == ".txt" for name in listing.names(folder)) > count}
    if not more:
        return
    folders = {(image.rpartition(os.sep)[0], file.rpartition(os.sep)[0])
               for image, file in zip(images, files, strict=True)}
    taken = set(files)
    stems: set[str] = set()
    for place, folder in sorted(pair for pair in folders if pair[1] in more):
        names = [name for name in listing.names(folder) if name[0] != "." and name[-4:].lower() == ".txt"
                 and f"{folder}{os.sep}{name}" not in taken]
        if names and not stems:
            stems = {os.path.splitext(image)[0] for image in images}  # noqa: PTH122  Path costs 10x here
        lonely = [f"{folder}{os.sep}{name}" for name in sorted(names) if f"{place}{os.sep}{name[:-4]}" not in stems]
        lonely = [file for file in lonely[:MOST_LOOKED_AT] if _has_rows(file)] + lonely[MOST_LOOKED_AT:]
        report.add("lonely_label", lonely[0] if lonely else "", len(lonely))
        taken.update(lonely)


def _has_rows(file: str) -> bool:
    """Whether a text file begins with a row of labels, unlike a list of images or of classes."""
    try:
        words = _read(file).split(None, 5)[:5]
        return len([float(word) for word in words]) == 5
    except (OSError, ValueError):
        return False


def _check_corners(table: np.ndarray, files: list[str], keep: list[int], image: np.ndarray) -> None:
    """`UserError` where all rows (M, 6) look like x1 y1 x2 y2: the last two beyond the first, many out of the image."""
    low, high = table[:, 1:3], table[:, 3:5]
    if not len(table) or low.min() >= -EDGE and high.max() <= 1 + EDGE:
        return
    outside = ((low < -EDGE) | (high > 1 + EDGE)).any(1)
    if outside.sum() < max(FEW, SHARE * len(table)):
        return
    first, last = (low + high) / 2, high - low  # as written: x y, width height
    if (last > first).all() and (first >= 0).all() and (last <= 1 + EDGE).all():
        row = int(np.argmax(outside))
        raise UserError(f"{files[keep[image[row]]]} line {int(table[row, 5])}: should be class x y width height; all "
                        f"{len(table)} boxes of this split look like corners x1 y1 x2 y2 ({outside.sum()} would reach "
                        f"out of their image); write the centre, x2 - x1 and y2 - y1", "wrong-units")


def _check_first_id(source: Source, labels: np.ndarray, classes: int, files: list[str], image: np.ndarray) -> None:
    """`UserError` where class ids count from 1 and `names` from 0, or the other way round."""
    if not len(labels):
        return
    if source.first_id and (labels == 0).any():
        raise UserError(f"{files[image[np.argmax(labels == 0)]]}: class 0, but the keys of `names` in {source.yaml} "
                        f"count from 1; let them count from 0", "shifted-class-ids")
    if not source.first_id and labels.min() > 0 and labels.max() == classes:
        names = source.names or [f"class{i}" for i in range(classes)]
        said = f"names: {{1: {short(names[0])}" + (f", 2: {short(names[1])}, ..." if classes > 1 else "") + "}"
        raise UserError(f"{files[image[np.argmax(labels == classes)]]}: class {classes}, and no label of "
                        f"`{source.split}:` has class 0: ids seem to count from 1, `names` counts from 0; write "
                        f"`{said}` into {source.yaml} if so, else correct the labels", "shifted-class-ids")


def _read(file: str) -> str:
    """The text of a label file. Those written on Windows may begin with a byte order mark, in UTF-8 or UTF-16."""
    data = read_plain(file, LARGEST)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError("not UTF-8; save it as UTF-8")
    return text


def split_images(source: Source, report: ScanReport) -> list[str]:
    """The images of folders and lists, each once."""
    folders = Folders()
    found: list[str] = []
    for entry in source.entries:
        found += listed_images(entry, source.root, folders) if entry.is_file() else image_files(entry, report)
    once = list(dict.fromkeys(found))
    if len(once) < len(found):
        seen: set[str] = set()
        first = next(p for p in found if p in seen or seen.add(p))
        report.add("repeated_image", first, len(found) - len(once))
    return once
