"""A COCO annotation file as it streams by: what is kept of each object are some numbers, not the object.

Numbers, flags and ids are read as what they mean, however a JSON tool wrote them: "3" and 3.0 are 3, "0" is not set.
"""

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.parsing.json_stream import read_lists
from data.formats.raw_labels import join_outlines
from data.labels.records import NO_POLYGON
from data.labels.scan_report import KINDS, ScanReport
from utils.errors import UserError, shown

CROWD, MARKED, LACKS_AREA = 1, 2, 4
SET = frozenset(("1", "true", "yes", "y", "t"))
MARKS = ("ignore", "uncertain")


@dataclass
class CocoFile:
    """One file. names, ids, sizes (height, width), corners: of the images as listed; categories: id and name.

    keys, kinds: image ids and category ids as the annotations name them, with the numbers that stand for them in
    `codes`, per annotation: key, kind, flags (CROWD, MARKED, LACKS_AREA), its number in the file. numbers: left, top,
    width, height, area (NaN where there is none), id (NaN where it is no number). outlines: per annotation where they
    are wanted. odd: what pycocotools takes otherwise than it is meant, a kind of `scan_report.KINDS` -> how many. bare:
    only judged by, so that images need no name, and categories are named by their ids where they have none.
    """

    entry: Path
    folder: Path
    report: ScanReport
    outlines: list[np.ndarray] | None = None
    names: list[str] = field(default_factory=list)
    ids: list[Hashable] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    corners: list[tuple[int, int, int, int] | None] = field(default_factory=list)
    categories: dict[Hashable, str] = field(default_factory=dict)
    keys: dict[Hashable, int] = field(default_factory=dict)
    kinds: dict[Hashable, int] = field(default_factory=dict)
    codes: array = field(default_factory=lambda: array("i"))
    numbers: array = field(default_factory=lambda: array("d"))
    odd: Counter = field(default_factory=Counter)
    seen: int = 0
    bare: bool = False

    def read(self) -> "CocoFile":
        """Stream the file. `UserError` where it is no COCO file."""
        try:
            lists = read_lists(self.entry, {"images": self.add_image, "annotations": self.add_annotation,
                                            "categories": self.add_category}, self._refuse)
        except OSError as error:
            raise UserError(f"{self.entry}: cannot be read: {error.strerror}; give the annotation file",
                            "unreadable-file") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.entry}: not UTF-8 ({error.reason}); save it as UTF-8, or: iconv -f CP1252 -t UTF-8 "
                            f"with the encoding that it has", "not-utf8") from None
        except ValueError as error:
            raise UserError(f"{self.entry}: not whole JSON ({error}); copy or download it again",
                            "invalid-json") from None
        for key in ("images", "categories"):
            if key not in lists:
                raise UserError(f"{self.entry}: no list `{key}` in it; give a COCO file such as "
                                f"instances_train2017.json", "missing-key")
        return self

    def _refuse(self, key: str, value: Any) -> None:
        """A key of the file that should have a list; null is none."""
        if value is not None:
            raise UserError(f"{self.entry}: `{key}` should be a list, found {shown(value, 60)}; write a list of "
                            f"objects", "bad-value")

    def add_image(self, image: Any) -> None:
        """Note one image."""
        lacks_name = isinstance(image, dict) and image.get("file_name") in (None, "") and not self.bare
        if not isinstance(image, dict) or not is_id(image.get("id")) or lacks_name:
            raise UserError(f"{self.entry}: an image without `id` or `file_name`: {image!r:.80}; write both",
                            "missing-key")
        self.names.append(str(image.get("file_name") or ""))
        self.ids.append(plain(image["id"]))
        self.sizes.append((whole(image.get("height")), whole(image.get("width"))))
        corner = image.get("corner")
        self.corners.append(None if corner is None else self._corner(corner))

    def _corner(self, corner: Any) -> tuple[int, int, int, int]:
        try:
            x1, y1, x2, y2 = (int(v) for v in corner)
        except (TypeError, ValueError, OverflowError):
            x1 = y1 = x2 = y2 = 0
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise UserError(f"{self.entry}: `corner: {corner!r:.60}` of {self.names[-1]} is no window [x1, y1, x2, y2] "
                            f"of its file in pixels; correct it or leave it out", "bad-value")
        return x1, y1, x2, y2

    def add_category(self, category: Any) -> None:
        """Note one category."""
        lacks_name = isinstance(category, dict) and category.get("name") is None and not self.bare
        if not isinstance(category, dict) or not is_id(category.get("id")) or lacks_name:
            raise UserError(f"{self.entry}: a category without `id` or without `name`: {category!r:.80}; write both",
                            "missing-key")
        key = plain(category["id"])
        name = str(key if category.get("name") is None else category["name"])
        if self.categories.setdefault(key, name) != name:
            raise UserError(f"{self.entry}: category {shown(key)} is {shown(self.categories[key])} and {shown(name)}; "
                            f"give each class an `id` of its own", "duplicate-class")

    def add_annotation(self, annotation: Any) -> None:
        """Note one annotation, or count why it is none."""
        self.seen += 1
        try:
            image, category = annotation["image_id"], annotation["category_id"]
            codes = (self.keys.setdefault(image, len(self.keys)), self.kinds.setdefault(category, len(self.kinds)))
            crowd, area, number = annotation.get("iscrowd"), annotation.get("area"), annotation.get("id")
            flags = CROWD * (crowd if type(crowd) is int and 0 <= crowd <= 1 else self._flag(crowd))
            if ("ignore" in annotation or "uncertain" in annotation) and any(flag(annotation.get(m)) for m in MARKS):
                flags |= MARKED
            if type(area) is not float and type(area) is not int:
                area = self._number(area)
                flags |= LACKS_AREA * (area != area)
            if type(number) is not int:
                number = self._own_id(number)
            row = [*map(float, annotation.get("bbox") or self._box(annotation)), float(area), float(number)]
            usable = len(row) == 6 and isfinite(sum(row[:4]))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            usable = False
        if not usable:
            self.report.add("corrupt_row", f"{self.entry} annotation {self.seen}{why_not(annotation)}")
            return
        self.numbers.extend(row)
        self.codes.extend((*codes, flags, self.seen))
        if self.outlines is not None:
            self.outlines.append(outline(annotation.get("segmentation")))

    def _box(self, annotation: dict[str, Any]) -> list[float]:
        """That of the outline of an annotation without one."""
        points = outline(annotation["segmentation"])
        low, high = points.min(0), points.max(0)
        self.odd["meant_box"] += 1
        return [*low.tolist(), *(high - low).tolist()]

    def _flag(self, value: Any) -> bool:
        if isinstance(value, str | None):
            self.odd["meant_flag"] += 1
        return flag(value)

    def _number(self, value: Any) -> float:
        self.odd["meant_area"] += 1
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return nan

    def _own_id(self, value: Any) -> float:
        if type(value) is float and value.is_integer():
            return value
        self.odd["meant_number"] += 1
        number = meant(value)
        return number if type(number) is int else nan

    def labels(self, ids: Sequence[Hashable], to_label: dict[Hashable, int], left_out: set[Hashable],
               shared: Iterable[Hashable] = ()) -> tuple[np.ndarray, ...]:
        """Image (its position in `ids`), label, flags, `numbers` (M, 6), rows before and outlines of the annotations
        with an image and a class.

        The others are counted, but for those of `shared` ids, which are counted with their images.
        """
        place, known = positions(ids, self.keys), positions(to_label, self.kinds)
        labels = list(to_label.values())
        key, kind, flags, seen = np.frombuffer(self.codes, np.int32).reshape(-1, 4).T  # as they are: no second copy
        gone = set(shared)
        image = np.array([-2 if p >= 0 and ids[p] in gone else p for p in place], np.int64)[key]
        label = np.array([-1 if k < 0 else labels[k] for k in known], np.int64)[kind]
        other = np.array([p >= 0 for p in positions(list(left_out), self.kinds)], bool)[kind]
        for word, fault, name, names in (("orphan", image == -1, "image_id", (key, self.keys)),
                                         ("other_class", (image >= 0) & other, "category_id", (kind, self.kinds)),
                                         ("bad_class", (image >= 0) & (label < 0) & ~other, "category_id",
                                          (kind, self.kinds))):
            rows = np.flatnonzero(fault)
            if len(rows):
                said = list(names[1])[names[0][rows[0]]]
                self.report.add(word, f"{self.entry} annotation {seen[rows[0]]} ({name} {said})", len(rows))
        keep = np.flatnonzero((image >= 0) & (label >= 0))
        numbers = np.frombuffer(self.numbers, np.float64).reshape(-1, 6)
        numbers = numbers if len(keep) == len(numbers) else numbers[keep]
        outlines = [] if self.outlines is None else [self.outlines[i] for i in keep]
        return image[keep], label[keep], flags[keep], numbers, seen[keep], outlines

    def add_to_report(self) -> None:
        """Add to the report what was read as it is meant and not as it is written, and which ids are there twice."""
        for kind, count in self.odd.items():
            self.report.add(kind, str(self.entry), count)
        self.report.notes += [f"{self.entry.name}: {said}, read as what it means" for said in self._texts()]
        self.report.notes += [f"{self.entry.name}: {said}" for said in self._ids()]

    def departures(self) -> list[str]:
        """What pycocotools takes otherwise than it is meant, counted."""
        return [f"{count} {KINDS[kind][0]}" for kind, count in self.odd.items()] + self._texts() + self._ids()

    def _texts(self) -> list[str]:
        """Ids that annotations write otherwise than the lists of images and categories do."""
        said = []
        for word, own, named in (("image_id", self.ids, self.keys), ("category_id", list(self.categories), self.kinds)):
            other = [(key, own[k]) for key, k in zip(named, positions(own, named), strict=True)
                     if k >= 0 and key != own[k]]
            said += [f"annotations with `{word}` {key!r} for the id {mine!r}" for key, mine in other[:1]]
        return said

    def _ids(self) -> list[str]:
        """Ids of annotations that stand there twice, and 0."""
        numbers = np.frombuffer(self.numbers, np.float64).reshape(-1, 6)[:, 5]
        numbers = numbers[~np.isnan(numbers)]
        repeats = len(numbers) - len(np.unique(numbers))
        said = [f"{repeats} annotations whose `id` another has too (pycocotools takes the last for all of an id)"]
        return said[:repeats] + ["an annotation of `id` 0 (a match with it is none to pycocotools)"] * (0 in numbers)


def is_id(value: Any) -> bool:
    """Whether an image or a category can be called so."""
    return isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))


def plain(value: Any) -> Any:
    """An id as it is, a whole number as an int."""
    return int(value) if type(value) is float and value.is_integer() else value


def meant(value: Any) -> Any:
    """An id as the number that its text is; any other as it is."""
    if isinstance(value, str) and value.strip().removesuffix(".0").isdecimal():
        return int(value.strip().removesuffix(".0"))
    return value


def positions(own: Iterable[Hashable], named: Iterable[Hashable]) -> list[int]:
    """Which of `own` ids each of `named` means, -1 for none: the same, else the only one of the same number."""
    exact = {key: k for k, key in enumerate(own)}
    numbers: dict[Hashable, int] = {}
    for key, k in exact.items():
        numbers[meant(key)] = -1 if meant(key) in numbers else k
    return [exact[key] if key in exact else numbers.get(meant(key), -1) for key in named]


def flag(value: Any) -> bool:
    """Whether a flag is set: true, 1, "1", "true"; not null, 0, "0", "false" or any other text."""
    return value.strip().lower().removesuffix(".0") in SET if isinstance(value, str) else bool(value)


def whole(value: Any) -> int:
    """A number of pixels, 0 where it is none; one that can be no size stays wrong, within what arrays hold."""
    value = meant(plain(value))
    return min(max(value, -1), 2**31 - 1) if isinstance(value, int) else 0


def why_not(annotation: Any) -> str:
    """What is wrong with an annotation that cannot be used, in words."""
    if not isinstance(annotation, dict):
        return ", no object"
    lacking = [word for word in ("image_id", "category_id") if annotation.get(word) is None]
    if lacking:
        return f" without `{lacking[0]}`"
    if annotation.get("bbox"):
        return f": `bbox` {annotation['bbox']!r:.60} should be four numbers, left, top, width and height in pixels"
    return " without `bbox`, and without an outline in `segmentation` that it could be taken from"


def outline(segmentation: Any) -> np.ndarray:
    """The outline (k, 2) around all parts of an object; empty where the file has none that is well formed."""
    parts = segmentation if isinstance(segmentation, list) else []
    try:
        parts = [np.array(p, np.float32).reshape(-1, 2) for p in parts if len(p) >= 6]
    except (TypeError, ValueError):
        return NO_POLYGON
    return join_outlines(parts) if parts and all(np.isfinite(p).all() for p in parts) else NO_POLYGON
