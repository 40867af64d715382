"""The check of a COCO results file: what the server would refuse, and what it would judge without a word."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.submission.coco import MAX_DETECTIONS, file_stem
from engine.evaluation.submission.image_info import IMAGES, ImageInfo
from engine.evaluation.submission.json_rows import row_blocks
from engine.evaluation.submission.packing import Bounded, open_zip
from engine.evaluation.submission.report import Refused, Report, megabytes
from utils.class_lists import COCO_IDS
from utils.errors import shown

ROW_BYTES = 512  # more than any row of a box; with spaces and all digits of a double they take 250
MOST_IMAGES = 50_000  # where no image-info file says how many there are
SLACK = 0.01  # pixels by which a rounded box may pass the border
FILE_NAME = re.compile(r"detections_(.+?)_(.+)_results")
KEYS = ("image_id", "category_id", "bbox", "score")
RECORD = "submission.json"  # beside the results: what was looked at, since images without detections leave no row


def check_coco(path: Path | str, info: ImageInfo | None = None, seen: Sequence[int] = ()) -> Report:
    """Check a results file, JSON or zip, as the server will read it, at constant memory.

    info: the images of the set; without it only the form is checked, and the report says so. seen: ids of images that
    were looked at though they have no row; those that the record beside the file names are taken as seen too.
    """
    path = Path(path)
    report = Report(path, "COCO results")
    check = _Check(report, info)
    images = len(info.ids) if info else MOST_IMAGES
    most = (images * MAX_DETECTIONS + 1) * ROW_BYTES
    try:
        _check_name(path, info, report)
        digest, sizes = hashlib.sha256(), Counter()
        with _opened(path, most) as file:
            for rows in row_blocks(_Hashing(file, digest, sizes)):
                check.add(rows)
        packed = f", zip {megabytes(path.stat().st_size)}" if path.suffix.lower() == ".zip" else ""
        report.facts.append(f"JSON {megabytes(sizes['bytes'])}{packed}")
        check.finish({*seen, *_recorded(path, digest.hexdigest(), report)})
    except Refused as refusal:
        report.add(refusal.code, str(refusal))
    return report


class _Hashing:
    """A stream whose bytes are hashed and counted as they are read."""

    def __init__(self, source: Bounded, digest: Any, sizes: Counter) -> None:
        self.source, self.digest, self.sizes = source, digest, sizes

    def read(self, count: int = -1) -> bytes:
        data = self.source.read(count)
        self.digest.update(data)
        self.sizes["bytes"] += len(data)
        return data


@contextmanager
def _opened(path: Path, most: int) -> Iterator[Bounded]:
    """The JSON of a results file, out of its zip file where it is in one."""
    try:
        if not path.is_file():
            raise Refused("missing", "there is no such file")
        size = path.stat().st_size
        if not size:
            raise Refused("empty", "the file is empty; write it again")
        if size > most:
            raise Refused("too-large", f"{size:,} bytes: detections of these images take at most {most:,}; masks and "
                                       f"other keys do not belong in it")
        if path.suffix.lower() != ".zip":
            with path.open("rb") as file:
                yield Bounded(file, most, path.name)
            return
        with open_zip(path, most) as archive:
            names, wanted = archive.namelist(), f"{path.stem}.json"
            if names != [wanted]:
                raise Refused("bad-member", f"the zip file should hold {wanted} alone, and holds "
                                            f"{shown(', '.join(names[:4]) or 'nothing', 160)}")
            with archive.open(wanted) as file:
                yield Bounded(file, most, wanted)
    except OSError as error:
        raise Refused("damaged", f"it cannot be read: {error.strerror or error}") from None


def _check_name(path: Path, info: ImageInfo | None, report: Report) -> None:
    found = FILE_NAME.fullmatch(path.stem)
    if path.suffix not in (".json", ".zip") or not found:
        report.add("bad-file-name", f"the server takes detections_[set]_[algorithm]_results.json in a .zip of that "
                                    f"stem, not {shown(path.name, 120)}; rename it, and the JSON inside")
        return
    if info and not path.stem.startswith(file_stem(info.test_set, "").removesuffix("_results")):
        report.add("bad-file-name", f"it is named after the set {found[1]} and is checked against {info.test_set}; "
                                    f"rename it, or give the image-info file of {found[1]}")
    count = IMAGES.get(found[1])
    if info and count not in (None, len(info.ids)):
        report.notes.append(f"{info.file} has {len(info.ids):,} images, and COCO's {found[1]} has {count:,}")


def _recorded(path: Path, digest: str, report: Report) -> list[int]:
    """Images without detections that the record beside the file names, where it is the record of this very content."""
    try:
        with path.with_name(RECORD).open("rb") as file:
            content = json.loads(file.read(1 << 26))
        if content["sha256"] != digest:
            return []
        images = [image for image in content["images_without_detections"] if type(image) is int]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if images:
        report.notes.append(f"{len(images):,} images have no detection; {RECORD} says that they were looked at")
    return images


class _Check:
    """What is counted while the rows of a file pass by."""

    def __init__(self, report: Report, info: ImageInfo | None) -> None:
        self.report, self.info, self.rows = report, info, 0
        self.place = info.place if info else {}
        self.counts = np.zeros(len(self.place), np.int64)
        self.categories = info.categories if info else frozenset(COCO_IDS)
        self.kinds: Counter[int] = Counter()

    def add(self, rows: list[Any]) -> None:
        """Check a block of rows."""
        numbers = np.arange(self.rows + 1, self.rows + len(rows) + 1)
        self.rows += len(rows)
        columns = _columns(rows)
        if columns is None:
            plain = np.array([_columns([row]) is not None for row in rows], bool)
            first = int(np.flatnonzero(~plain)[0])
            self.report.add("bad-row", f"row {numbers[first]:,} should have whole numbers as image_id and category_id, "
                                       f"four numbers as bbox and one as score: {shown(rows[first], 120)}",
                            int((~plain).sum()))
            columns, numbers = _columns([row for row, good in zip(rows, plain, strict=True) if good]), numbers[plain]
        ids, kinds, sides, scores = columns
        place = self._places(ids)
        self.kinds.update(kinds)
        boxes, scores = _doubles(sides).reshape(-1, 4), _doubles(scores)
        self.counts += np.bincount(place[place >= 0], minlength=len(self.counts))

        def fault(code: str, where: np.ndarray, text: str, values: Sequence[Any] | np.ndarray, end: str = "") -> None:
            if where.any():
                k = int(where.argmax())
                value = values[k].tolist() if isinstance(values, np.ndarray) else values[k]
                self.report.add(code, f"row {numbers[k]:,} (image {ids[k]}): {text} {value}{end}", int(where.sum()))

        known = np.array([kind in self.categories for kind in kinds], bool)
        finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
        negative = finite & (boxes[:, 2:] < 0).any(1)
        outside = finite & ~negative & self._outside(place, boxes)
        fault("unknown-image", place < 0, f"{self.info.file if self.info else ''} has no image_id", ids)
        fault("unknown-category", ~known, "the set has no category_id", kinds)
        fault("not-finite", ~finite, "no finite box and score:", np.column_stack((boxes, scores)))
        fault("bad-score", finite & ((scores < 0) | (scores > 1)), "a score outside [0, 1]:", scores)
        fault("negative-side", negative, "a negative width or height:", boxes, "; bbox is left, top, width, height")
        fault("outside-image", outside, "a bbox that is not inside the image:", boxes, self._size(place[outside]))

    def _places(self, ids: list[int]) -> np.ndarray:
        """The position of each image, -1 for unknown ones; without an image-info file all are known."""
        if self.info is None:
            place = np.array([self.place.setdefault(image, len(self.place)) for image in ids], np.int64)
            self.counts = np.pad(self.counts, (0, len(self.place) - len(self.counts)))
            return place
        return np.array([self.place.get(image, -1) for image in ids], np.int64)

    def _outside(self, place: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(D,) bool: finite boxes that pass a border of their image."""
        outside = (boxes[:, :2] < -SLACK).any(1)
        if self.info is None:
            return outside
        size = np.where(place[:, None] < 0, np.nan, self.info.sizes[place])  # a comparison with NaN is false
        return outside | ((boxes[:, :2] + boxes[:, 2:]) > size + SLACK).any(1)

    def _size(self, places: np.ndarray) -> str:
        if self.info is None or not len(places) or places[0] < 0:
            return ""
        return " in an image of {:g} x {:g} pixels".format(*self.info.sizes[places[0]])

    def finish(self, seen: set[int]) -> None:
        """Check the file as a whole."""
        report, most = self.report, int(self.counts.max(initial=0))
        report.facts.insert(0, f"{self.rows:,} detections, at most {most:,} in an image" + (
            f", checked against the {len(self.counts):,} images of {self.info.file}" if self.info else ""))
        if not self.rows:
            report.add("empty", "it has no detection at all; check the weights and --conf-thres")
            return
        crowded = np.flatnonzero(self.counts > MAX_DETECTIONS)
        ids = self.info.ids if self.info else list(self.place)
        if len(crowded):
            report.add("too-many", f"image {ids[crowded[0]]} has {self.counts[crowded[0]]:,} detections; the server "
                                   f"counts the best {MAX_DETECTIONS} of an image", len(crowded))
        self._explain_categories()
        if self.info is None:
            report.notes.append("image ids, borders and unseen images were not checked: give the image-info file too")
            return
        unseen = [image for k, image in enumerate(ids) if not self.counts[k] and image not in seen]
        if unseen:
            report.add("unseen-image", f"image {unseen[0]} has no row: it was not looked at, or has no detection and "
                                       f"no {RECORD} of val.py says so", len(unseen))
        unsized = int(np.isnan(self.info.sizes).any(1).sum())
        if unsized:
            report.notes.append(f"{self.info.file} does not state the size of {unsized:,} images: boxes there were not "
                                f"compared with the border")

    def _explain_categories(self) -> None:
        """Say what the category ids look like where some are not of COCO's, which are 1 to 90 with ten gaps."""
        problem = next((p for p in self.report.problems if p.code == "unknown-category"), None)
        if problem is None or self.categories != frozenset(COCO_IDS):
            return
        low, high = min(self.kinds), max(self.kinds)
        if low >= 0 and high <= len(COCO_IDS):
            problem.text += (f"; the file has {low} to {high}, which look like labels of a model: COCO's ids are 1 "
                             f"to 90 with ten gaps")


def _columns(rows: list[Any]) -> tuple[list[int], list[int], list[float], list[float]] | None:
    """image_id, category_id, bbox end to end, score of the rows; None where a row lacks one or it has a wrong type."""
    try:
        ids, kinds, boxes, scores = [[row[key] for row in rows] for key in KEYS]
        if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
            return None
        sides = list(chain.from_iterable(boxes))
    except (KeyError, TypeError, IndexError):
        return None
    plain = {*map(type, ids), *map(type, kinds)} <= {int} and {*map(type, sides), *map(type, scores)} <= {int, float}
    return (ids, kinds, sides, scores) if plain else None


def _doubles(values: list[int | float]) -> np.ndarray:
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number beyond all doubles
        return np.array([float(v) if abs(v) < 1e308 else np.inf for v in values])
