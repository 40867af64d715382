"""COCO JSON: instances_*.json, and image_info_*.json without annotations. Crowds become ignore regions."""

import json
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.raw import Unchecked, image_files
from data.report import ScanReport
from data.source import Source
from utils.errors import UserError, nearest


def inputs(source: Source) -> list[str]:
    """The annotation files and what lies in the image folders."""
    return [str(e) for e in source.entries] + [p for folder in source.image_folders for p in image_files(folder)]


def read(source: Source, report: ScanReport) -> Unchecked:
    """All annotations of a split, classes in the order of the category ids, or of the YAML's `names` if there are."""
    contents = [_load(entry) for entry in source.entries]
    names, category_ids, left_out = _classes(source, contents)
    labels = _Labels({category: label for label, category in enumerate(category_ids)}, left_out, report)
    paths: list[str] = []
    files: list[str] = []
    ids: list[int] = []
    sizes: list[tuple[int, int]] = []
    for entry, folder, content in zip(source.entries, source.image_folders, contents, strict=True):
        position = {}
        for image in content["images"]:
            if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)) or not image.get("file_name"):
                raise UserError(f"{entry}: an image without `id` or `file_name`: {image!r:.80}; write both")
            position[image["id"]] = len(paths)
            paths.append(str(folder / str(image["file_name"])))
            files.append(str(entry))
            ids.append(image["id"])
            sizes.append((_whole(image.get("height")), _whole(image.get("width"))))
        for k, annotation in enumerate(content.get("annotations") or (), 1):
            labels.add(annotation, f"{entry} annotation {k}", position)
    report.notes += source.notes
    if len(set(ids)) != len(ids) or not all(type(i) is int for i in ids):
        report.notes.append("image ids are not whole numbers, each once: 1 to n are used instead")
        ids = list(range(1, len(ids) + 1))
    image, label, ignore, area, number = np.array(labels.rows, np.float64).reshape(-1, 5).T
    boxes = np.array(labels.boxes, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Unchecked(paths, files, ids, np.array(sizes, np.int64).reshape(-1, 2), image.astype(np.int64), boxes,
                     label.astype(np.int64), ignore.astype(bool), area, number.astype(np.int64),
                     number.astype(np.int64), names, category_ids, row_word="id", exact=True)


@dataclass
class _Labels:
    """Annotations as they are read: rows of image, label, ignore, area, id; boxes of left, top, width, height."""

    to_label: dict[int, int]
    left_out: set[int]
    report: ScanReport
    rows: list[tuple] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)

    def add(self, annotation: Any, where: str, position: dict[Any, int]) -> None:
        """Append one annotation, or count why it is none."""
        try:
            image, category = position.get(annotation["image_id"]), annotation["category_id"]
            label, crowd = self.to_label.get(category), bool(annotation.get("iscrowd", 0))
            box = [float(value) for value in annotation["bbox"]]
            area, number = float(annotation.get("area", np.nan)), int(annotation.get("id", len(self.rows) + 1))
            usable = len(box) == 4 and isfinite(sum(box))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            usable = False
        if not usable:
            self.report.add("corrupt_row", where)
        elif image is None:
            self.report.add("orphan", f"{where} (image_id {annotation['image_id']})")
        elif label is None:
            kind = "other_class" if category in self.left_out else "bad_class"
            self.report.add(kind, f"{where} (category_id {category})")
        else:
            self.rows.append((image, label, crowd, area, number))
            self.boxes.append(box)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the annotation file") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise UserError(f"{path}: not whole JSON ({error}); copy or download it again") from None
    for key in ("images", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: no list `{key}` in it; give a COCO file such as instances_train2017.json")
    return content


def _classes(source: Source, contents: list[dict[str, Any]]) -> tuple[list[str], list[int], set[int]]:
    """Names and category ids by label, and the ids that the YAML's `names` leaves out."""
    try:
        known = {c["id"]: str(c["name"]) for content in contents for c in content["categories"]}
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
