"""COCO results files of any program: a list of `image_id`, `category_id`, `bbox` and `score`, read as they stand.

Nothing is repaired: what cannot be judged is an error that names the row, and what looks like another convention (class
numbers without the gaps of COCO's ids, corners instead of sizes) is explained (`slips`).
"""

import json
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.parsing.coco_file import is_id, plain, positions
from engine.evaluation.comparison.slips import explain_classes, find_slips
from engine.evaluation.metrics.found import Found
from utils.errors import UserError, shown
from utils.truth import Truth

KEYS = ("image_id", "category_id", "bbox", "score")
NAME = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class Results:
    """The detections of a file, in the order of the truth's images; notes: what should be read beside the numbers."""

    path: Path
    found: Found
    notes: list[str] = field(default_factory=list)


@dataclass
class _Columns:
    """What the rows of a file hold. images, classes: the ids as they are written, with the number that stands for them
    in `codes` (image, class per row); numbers: left, top, width, height, score per row."""

    images: dict[Hashable, int] = field(default_factory=dict)
    classes: dict[Hashable, int] = field(default_factory=dict)
    codes: array = field(default_factory=lambda: array("i"))
    numbers: array = field(default_factory=lambda: array("d"))
    outlines: int = 0

    def add(self, row: Any) -> None:
        """One row. Raises `KeyError`, `TypeError`, `ValueError` or `OverflowError` where it is none."""
        image, label, box, score = row["image_id"], row["category_id"], row["bbox"], row["score"]
        if len(box) != 4 or not is_id(image) or not is_id(label):
            raise ValueError
        self.codes.append(self.images.setdefault(image, len(self.images)))
        self.codes.append(self.classes.setdefault(label, len(self.classes)))
        self.numbers.extend(box)
        self.numbers.append(score)
        self.outlines += "segmentation" in row


def read_results(path: Path, truth: Truth, names: Sequence[str]) -> Results:
    """The detections of a results file on the images of `truth`; names: of its classes.

    Ids are matched as they are written, else by the number that their text is. Every image counts as looked at: a file
    does not say where nothing was found. Raises `UserError` for what is no results file, for rows without a box, score
    or finite numbers, and for images and classes that the truth does not have.
    """
    columns = _Columns()
    for number, row in enumerate(_rows(path), 1):
        try:
            columns.add(row)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{path}: row {number}{_why_not(row)}", "bad-row") from None
    codes = np.frombuffer(columns.codes, np.int32).reshape(-1, 2)
    numbers = np.frombuffer(columns.numbers, np.float64).reshape(-1, 5)
    odd = np.flatnonzero(~np.isfinite(numbers).all(1))
    if len(odd):
        raise UserError(f"{path}: row {odd[0] + 1} has a number that is not finite "
                        f"({shown(numbers[odd[0]].tolist())}); leave such rows out, {len(odd)} in all", "not-finite")
    images, labels = _places(path, columns, codes, truth, names)
    found = Found.of_rows(np.ones(len(truth.image_ids), bool), images, labels, numbers[:, :4].copy(),
                          numbers[:, 4].copy())
    notes = [f"{path.name}: {note}" for note in _notes(columns, found, truth, names)]
    return Results(path, found, notes)


def _rows(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give a COCO results file",
                        "unreadable-file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8", "not-utf8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON ({error}); write or copy it again", "invalid-json") from None
    if isinstance(content, dict) and "annotations" in content:
        raise UserError(f"{path}: an annotation file, not results (a list of {', '.join(KEYS)}); give the results "
                        f"files first and the annotations last", "not-results")
    if not isinstance(content, list):
        raise UserError(f"{path}: holds {shown(content, 60)}, and results are a list of {', '.join(KEYS)}",
                        "not-results")
    return content


def _why_not(row: Any) -> str:
    """What is wrong with a row, in words."""
    if not isinstance(row, dict):
        return f" is {shown(row, 60)}, not an object with {', '.join(KEYS)}"
    lacking = [key for key in KEYS if row.get(key) is None]
    if lacking:
        outlined = lacking == ["bbox"] and "segmentation" in row
        beside = " (it has `segmentation`: only boxes are judged)" * outlined
        return f" has no `{lacking[0]}`{beside}; write {', '.join(KEYS)} in every row"
    wrong = next((key for key in KEYS[:2] if not isinstance(row[key], Hashable) or not is_id(row[key])), None)
    if wrong:
        return f": `{wrong}` {shown(row[wrong], 60)} is neither number nor text; write the id that the annotations have"
    if not isinstance(row["score"], int | float):
        return f": `score` {shown(row['score'], 60)} is no number; write one"
    return f": `bbox` {shown(row['bbox'], 60)} should be four numbers: left, top, width, height in pixels"


def _places(path: Path, columns: _Columns, codes: np.ndarray, truth: Truth,
            names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows' images and classes in the truth."""
    what = truth.file.name if truth.file else f"the {truth.what}"
    place = np.array(positions(truth.image_ids, columns.images), np.int64)
    images = place[codes[:, 0]] if len(codes) else codes[:, 0].astype(np.int64)
    strange = np.flatnonzero(images < 0)
    if len(strange):
        key = list(columns.images)[codes[strange[0], 0]]
        named = isinstance(key, str) and key.lower().endswith(NAME)
        cure = ("file names are no ids; write the `id` of each image" if named else
                f"its {len(truth.image_ids)} images have ids such as {shown(next(iter(truth.image_ids), None), 40)}; "
                f"give the annotations of the split that the results are of")
        raise UserError(f"{path}: row {strange[0] + 1} has image_id {shown(key, 60)}, which {what} has not "
                        f"({int((place < 0).sum())} of {len(place)} images, {len(strange)} of {len(codes)} rows); "
                        f"{cure}", "unknown-id")
    place = np.array(positions(truth.category_ids, columns.classes), np.int64)
    labels = place[codes[:, 1]] if len(codes) else codes[:, 1].astype(np.int64)
    strange = np.flatnonzero(labels < 0)
    if len(strange):
        key = list(columns.classes)[codes[strange[0], 1]]
        cure = explain_classes([plain(key) for key in columns.classes], truth.category_ids, names)
        raise UserError(f"{path}: row {strange[0] + 1} has category_id {shown(key, 60)}, which {what} has not "
                        f"({len(strange)} of {len(codes)} rows); {cure}", "unknown-class")
    return images, labels


def _notes(columns: _Columns, found: Found, truth: Truth, names: Sequence[str]) -> list[str]:
    said = []
    for word, own, written in (("image_id", truth.image_ids, columns.images),
                               ("category_id", truth.category_ids, columns.classes)):
        other = [(key, own[k]) for key, k in zip(written, positions(own, written), strict=True) if key != own[k]]
        said += [f"{word} {shown(key, 40)} is read as the id {shown(mine, 40)}" for key, mine in other[:1]]
    n = len(truth.image_ids)
    without = n - len(np.unique(found.images))
    if without:
        said.append(f"{without} of {n} images have no detection")
    if columns.outlines:
        said.append(f"{columns.outlines} rows have a `segmentation`: their `bbox` is judged")
    negative = int((found.boxes[:, 2:] < 0).any(1).sum())
    if negative:
        said.append(f"{negative} boxes have a negative width or height: they overlap nothing")
    return said + find_slips(truth, found, names)
