"""What the detections on a split are judged against, and the user's own file as pycocotools would read it."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.data_yaml import Source
from data.formats import coco, reader
from data.formats.parsing.json_stream import read_lists
from data.labels.records import Record
from data.labels.scan_report import KINDS, ScanReport
from utils.truth import Truth

JUDGED_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore")  # all that pycocotools looks at
# What a scan finds that changes the labels, or leaves some out, or may.
CHANGES = ("unread_image", "closed_folder", "corrupt_label", "corrupt_row", "not_fractions", "bad_class",
           "other_class", "orphan", "swapped", "clipped", "no_area", "duplicate", "missing_label")
UNUSABLE = ("missing_image", "corrupt_image", "large_image", "bad_window")  # in which nothing can be found


class Split(Protocol):
    """What the truth of a split is made from; `data.index.Index` says what each field means."""

    records: Sequence[Record]
    category_ids: list[Hashable]
    report: ScanReport
    source: Source
    single_cls: bool
    part: bool

    def coco(self) -> dict[str, Any]: ...


def truth_of(index: Split) -> Truth:
    """The truth of an index: for COCO JSON the annotations as the files have them, for other formats as they were read.

    Images that the data list and that are not there or cannot be opened belong to it, so that their objects count as
    missed, unless the index was cut down to a part of its images.
    """
    if index.source.format != "coco":
        truth = Truth.from_coco(index.coco(), index.category_ids)
        if not index.part and any(map(index.report.count, UNUSABLE)):
            truth = with_unusable(truth, index)
        truth.what = f"labels as read from the {index.source.format} files"
        changed = _changes(index.report)
        if changed:
            truth.notes.append(f"{changed} before they were judged")
        truth.what += " of a part of the images" * index.part
        return truth
    truth, whole, _ = coco.read_truth(index.source)
    if index.part:
        truth, whole = _only(truth, {int(i) for i in index.records.image_ids}), False
        truth.what = f"{len(truth.image_ids)} images of the {truth.what}"
    if index.single_cls:
        truth, whole = replace(truth, label=np.zeros_like(truth.label), category_ids=list(index.category_ids)), False
        truth.what += ", all classes taken as one"
    truth.file = index.source.entries[0] if whole else None
    return truth


def with_unusable(truth: Truth, index: Split) -> Truth:
    """A truth with the objects of the images that its index leaves out because they cannot be opened.

    The labels are read again. Fractions become pixels by the median size of the other images, since nobody knows
    theirs: no detection can lie on them, and only the numbers by size depend on it.
    """
    raw = reader(index.source.format).read(index.source, ScanReport())
    known = {record: k for k, record in enumerate(truth.record_ids)}
    gone = [k for k, image in enumerate(raw.image_ids) if image not in known]
    if not gone:
        return truth
    place = np.full(len(raw.image_ids), -1)
    place[gone] = np.arange(len(gone)) + len(truth.image_ids)
    sizes = np.array([(record.width, record.height) for record in index.records])
    frame = np.median(sizes, 0) if raw.normalised else 1.0
    low, high = (order(raw.boxes[:, :2], raw.boxes[:, 2:]) * frame for order in (np.minimum, np.maximum))
    boxes = np.concatenate((low, high - low), 1)
    classes = len(raw.names)
    rows = np.flatnonzero((place[raw.image] >= 0) & ~raw.ignore & (raw.labels >= 0) & (raw.labels < classes)
                          & (boxes[:, 2:] > 0).all(1))
    label = np.zeros(len(rows), np.int64) if index.single_cls else raw.labels[rows]
    areas = np.where(np.isnan(raw.areas[rows]), boxes[rows, 2:].prod(1), raw.areas[rows])
    ids = [raw.image_ids[k] for k in gone]
    none = np.zeros(len(rows), bool)
    own = {"image": place[raw.image[rows]], "label": label, "boxes": boxes[rows], "areas": areas, "crowd": none,
           "marked": none}
    guess = " (their sizes are guessed, from those of the others)" * (raw.normalised and len(rows) > 0)
    note = f"{len(ids)} images cannot be opened: their {len(rows)} objects count as missed{guess}"
    return replace(truth, **{word: np.concatenate((getattr(truth, word), column)) for word, column in own.items()},
                   image_ids=truth.image_ids + ids, record_ids=truth.record_ids + ids, notes=[*truth.notes, note])


def truth_of_file(path: Path) -> tuple[Truth, list[str]]:
    """The truth of a COCO annotation file by itself, whose images need not be here, and the names of its classes.

    Raises `UserError` where it is no COCO file.
    """
    source = Source(path, "coco", "val", path.parent, [path], [path.parent])
    truth, _, names = coco.read_truth(source, bare=True)
    truth.file = path
    return truth, names


def own_file(path: Path) -> dict[str, Any]:
    """A COCO file as `json.load` gives it, without what pycocotools does not look at when it judges boxes.

    ValueError where it could not open the file.
    """
    with path.open("rb") as file:
        if file.read(3) == b"\xef\xbb\xbf":
            raise ValueError("it cannot open a file with a byte-order mark")
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}

    def take(key: str, words: tuple[str, ...]):
        def add(item: Any) -> None:
            content[key].append({w: item[w] for w in words if w in item} if isinstance(item, dict) else item)
        return add

    read_lists(path, {"images": take("images", ("id",)), "categories": take("categories", ("id",)),
                      "annotations": take("annotations", JUDGED_KEYS)})
    return content


def _only(truth: Truth, records: set[int]) -> Truth:
    """The truth of some of its images."""
    kept = [k for k, record in enumerate(truth.record_ids) if record in records]
    place = np.full(len(truth.record_ids), -1)
    place[kept] = np.arange(len(kept))
    rows = place[truth.image] >= 0
    columns = {word: getattr(truth, word)[rows] for word in ("label", "boxes", "areas", "crowd", "marked")}
    return replace(truth, image_ids=[truth.image_ids[k] for k in kept], image=place[truth.image][rows],
                   record_ids=[truth.record_ids[k] for k in kept], **columns)


def _changes(report: ScanReport) -> str:
    """What the scan repaired or left out of the labels, counted."""
    return ", ".join(f"{count} {KINDS[kind][0]} ({KINDS[kind][1]})" for kind, (count, _) in report.findings.items()
                     if kind in CHANGES)
