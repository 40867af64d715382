"""Frequent slips in results files, recognised and explained: class numbers that are not the file's ids, boxes in other
units or as corners. Nothing is repaired."""

from collections.abc import Hashable, Sequence

import numpy as np

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.overlaps import overlapping
from utils.errors import shown
from utils.truth import Truth

LOOKED_AT, BEST = 500, 30  # images, detections of each that are compared under other readings
FEW = 20  # detections on objects below which nothing is said
CLEAR = 2.0  # times as many must agree under the other reading


def explain_classes(written: Sequence[Hashable], ids: Sequence[Hashable], names: Sequence[str]) -> str:
    """What unknown class ids may be, and the cure. written: those of the results; ids: those of the truth, by label."""
    k = len(ids)
    numbers = [key for key in written if type(key) is int]
    start = 0 if 0 in numbers else 1
    span = f"{shown(ids[0], 40)} to {shown(ids[-1], 40)}" if k > 1 else shown(ids[0], 40)
    known = f"its {k} classes have the ids {span}" if k > 1 else f"its only class has the id {span}"
    if len(numbers) == len(written) and start <= min(numbers) and max(numbers) < k + start:
        label = next((n - start for n in sorted(numbers) if ids[n - start] != n), 0)
        example = f"{label + start} should be {shown(ids[label], 40)}" + (f", {names[label]}" if names else "")
        return (f"{known}, and the results seem to number the classes from {start} without gaps: write the file's id "
                f"of each class ({example})")
    return f"{known}; write the id that the annotations have"


def find_slips(truth: Truth, found: Found, names: Sequence[str]) -> list[str]:
    """Warnings about detections that fit the objects far better under another reading than as they are written."""
    if len(found) >= FEW and len(truth.image) and np.abs(found.boxes).max() <= 2:
        return ["warning: all boxes lie within 2 pixels of the corner: are they fractions of the image? `bbox` is in "
                "pixels"]
    images = np.unique(truth.image[~truth.crowd])[:LOOKED_AT]
    part = found[np.isin(found.images, images)].best(BEST, by_class=False)
    on, objects = _on_objects(truth, part)
    corners = _as_corners(part)
    others = 0 if corners is None else len(_on_objects(truth, corners)[0])
    if others >= max(FEW, CLEAR * len(on)):
        return [f"warning: read as left, top, right, bottom, {others} of {len(part)} boxes lie on an object, as left, "
                f"top, width, height {len(on)}: are they corners?"]
    if len(on) < FEW:
        return []
    return _other_classes(part.labels[on], truth.label[objects], truth.category_ids, names)


def _other_classes(labels: np.ndarray, true: np.ndarray, ids: Sequence[Hashable], names: Sequence[str]) -> list[str]:
    """Whether class numbers fit under another reading. labels, true (N,): of detections and of the objects below."""
    k, agree = len(ids), float((labels == true).mean())
    if not all(type(i) is int for i in ids):
        return []
    written = np.array(ids)[labels]
    for start in (0, 1):
        other = float((written - start == true).mean())
        if other >= 0.5 and other >= CLEAR * agree:
            example = int(np.argmax(written - start == true))
            name = f", {names[true[example]]}" if names else ""
            return [f"warning: of {len(labels)} detections on an object {agree:.0%} have its class, and {other:.0%} "
                    f"would if category_id numbered the {k} classes from {start} without gaps ({written[example]} "
                    f"would be {ids[true[example]]}{name})"]
    return []


def _on_objects(truth: Truth, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Detections with an IoU of 0.5 or more with an object of any class, and the object of greatest IoU of each."""
    detections, objects, ious = overlapping(truth, found, 0.5, by_class=False)
    real = ~truth.crowd[objects]
    detections, objects, ious = detections[real], objects[real], ious[real]
    order = np.lexsort((ious, detections))
    last = np.flatnonzero(np.diff(detections[order], append=-1))
    return detections[order][last], objects[order][last]


def _as_corners(found: Found) -> Found | None:
    """The boxes read as left, top, right, bottom, where all of them can be."""
    boxes = found.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    if not len(boxes) or (boxes[:, 2:] < 0).any():
        return None
    return Found(found.seen, found.images, found.labels, boxes, found.scores)
