"""COCO JSON: instances_*.json, and image_info_*.json without annotations. Crowds become ignore regions.

Polygons are taken from `segmentation` where it is a list of outlines; masks in run lengths have none.
"""

from array import array
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.raw import Unchecked, image_files, join_outlines
from data.json_stream import read_lists
from data.records import NO_POLYGON
from data.report import ScanReport
from data.source import Source
from utils.errors import UserError, nearest


def recognises(entry: Path, images: list[str]) -> bool:
    """An annotation file."""
    return entry.suffix.lower() == ".json"


def inputs(source: Source) -> list[str]:
    """The annotation files and what lies in the image folders."""
    return [str(e) for e in source.entries] + [p for folder in source.image_folders for p in image_files(folder)]


def read(source: Source, report: ScanReport, polygons: bool = False) -> Unchecked:
    """All annotations of a split, classes in the order of the category ids, or of the YAML's `names` if there are."""
    files = [_File(entry, folder, report, [] if polygons else None)
             for entry, folder in zip(source.entries, source.image_folders, strict=True)]
    for file in files:
        file.read()
    names, category_ids, left_out = _classes(source, files)
    to_label = {category: label for label, category in enumerate(category_ids)}
    labels = [file.labels(to_label, left_out) for file in files]
    before = np.cumsum([0, *(len(f.paths) for f in files[:-1])])
    image = _joined([part[0] + start for part, start in zip(labels, before, strict=True)])
    label, crowd, numbers = (_joined([part[k] for part in labels]) for k in (1, 2, 3))
    boxes = numbers[:, :4].copy()
    boxes[:, 2:] += boxes[:, :2]
    report.notes += source.notes
    ids = [i for f in files for i in f.ids]
    if len(set(ids)) != len(ids) or not all(type(i) is int for i in ids):
        report.notes.append("image ids are not whole numbers, each once: 1 to n are used instead")
        ids = list(range(1, len(ids) + 1))
    annotation_ids = numbers[:, 5].astype(np.int64)
    return Unchecked([p for f in files for p in f.paths], [str(f.entry) for f in files for _ in f.paths], ids,
                     np.array([size for f in files for size in f.sizes], np.int64).reshape(-1, 2), image, boxes, label,
                     crowd, numbers[:, 4].copy(), annotation_ids, annotation_ids, names, category_ids, row_word="id",
                     exact=True, polygons=[p for part in labels for p in part[4]] if polygons else None)


@dataclass
class _File:
    """An annotation file as it streams by: what is kept of each object are some numbers, not the object.

    keys, kinds: image ids and category ids as the annotations name them, with the numbers that stand for them in
    `codes`, per annotation: key, kind, crowd, how many annotations stand before. numbers: left, top, width, height,
    area, id. outlines: per annotation where they are wanted.
    """

    entry: Path
    folder: Path
    report: ScanReport
    outlines: list[np.ndarray] | None
    paths: list[str] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    categories: list[Any] = field(default_factory=list)
    keys: dict[Any, int] = field(default_factory=dict)
    kinds: dict[Any, int] = field(default_factory=dict)
    codes: array = field(default_factory=lambda: array("i"))
    numbers: array = field(default_factory=lambda: array("d"))
    seen: int = 0

    def read(self) -> None:
        """Stream the file. `UserError` where it is no COCO file."""
        try:
            lists = read_lists(self.entry, {"images": self.add_image, "annotations": self.add_annotation,
                                            "categories": self.categories.append})
        except OSError as error:
            raise UserError(f"{self.entry}: cannot be read: {error.strerror}; give the annotation file") from None
        except ValueError as error:  # not JSON, or not UTF-8
            raise UserError(f"{self.entry}: not whole JSON ({error}); copy or download it again") from None
        for key in ("images", "categories"):
            if key not in lists:
                raise UserError(f"{self.entry}: no list `{key}` in it; give a COCO file such as "
                                f"instances_train2017.json")

    def add_image(self, image: Any) -> None:
        """Note one image."""
        if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)) or not image.get("file_name"):
            raise UserError(f"{self.entry}: an image without `id` or `file_name`: {image!r:.80}; write both")
        self.paths.append(str(self.folder / str(image["file_name"])))
        self.ids.append(image["id"])
        self.sizes.append((_whole(image.get("height")), _whole(image.get("width"))))

    def add_annotation(self, annotation: Any) -> None:
        """Note one annotation, or count why it is none."""
        self.seen += 1
        try:
            image, category = annotation["image_id"], annotation["category_id"]
            crowd, number = bool(annotation.get("iscrowd", 0)), annotation.get("id", self.seen)
            row = [*map(float, annotation["bbox"]), float(annotation.get("area", np.nan)), float(int(number))]
            codes = (self.keys.setdefault(image, len(self.keys)), self.kinds.setdefault(category, len(self.kinds)))
            usable = len(row) == 6 and isfinite(sum(row[:4]))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            usable = False
        if not usable:
            self.report.add("corrupt_row", f"{self.entry} annotation {self.seen}")
            return
        self.codes.extend((*codes, crowd, self.seen))
        self.numbers.extend(row)
        if self.outlines is not None:
            self.outlines.append(_outline(annotation.get("segmentation")))

    def labels(self, to_label: dict[int, int], left_out: set[int]) -> tuple[np.ndarray, ...]:
        """Image of this file, label, crowd, `numbers` (M, 6) and outlines of the annotations with an image and a class.

        The others are counted.
        """
        place = {image: position for position, image in enumerate(self.ids)}
        key, kind, crowd, seen = np.frombuffer(self.codes, np.int32).reshape(-1, 4).T  # as they are: no second copy
        image = np.array([place.get(k, -1) for k in self.keys], np.int64)[key]
        label = np.array([to_label.get(k, -1) for k in self.kinds], np.int64)[kind]
        other = np.array([k in left_out for k in self.kinds], bool)[kind]
        for word, fault, name, names in (("orphan", image < 0, "image_id", (key, self.keys)),
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
        return image[keep], label[keep], crowd[keep].astype(bool), numbers, outlines


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """All parts end to end; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _outline(segmentation: Any) -> np.ndarray:
    """The outline (k, 2) around all parts of an object; empty where the file has none that is well formed."""
    parts = segmentation if isinstance(segmentation, list) else []
    try:
        parts = [np.array(p, np.float32).reshape(-1, 2) for p in parts if len(p) >= 6]
    except (TypeError, ValueError):
        return NO_POLYGON
    return join_outlines(parts) if parts and all(np.isfinite(p).all() for p in parts) else NO_POLYGON


def _classes(source: Source, files: list[_File]) -> tuple[list[str], list[int], set[int]]:
    """Names and category ids by label, and the ids that the YAML's `names` leaves out."""
    try:
        known = {c["id"]: str(c["name"]) for file in files for c in file.categories}
        by_id = sorted(i + 0 for i in known)  # a name for a number is a TypeError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{source.entries[0]}: a category without number `id` or without `name`; write both") from None
    if source.names is None:
        if source.nc not in (None, len(by_id)):
            raise UserError(f"{source.yaml}: `nc: {source.nc}` but {len(by_id)} categories in "
                            f"{source.entries[0].name}; correct `nc` or leave it out")
        return [known[i] for i in by_id], by_id, set()
    ids = {name: i for i, name in known.items()}
    for name in source.names:
        if name not in ids:
            hint = nearest(name, list(ids)) or "known: " + ", ".join(ids)
            raise UserError(f"{source.yaml}: `names` has {name!r}, which {source.entries[0].name} has not; {hint}")
    chosen = [ids[name] for name in source.names]
    return source.names, chosen, set(known) - set(chosen)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
