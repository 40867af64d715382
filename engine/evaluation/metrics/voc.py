"""VOC's average precision, beside COCO's numbers: what the VOC development kit computes from the results files.

The rule (Everingham et al. 2010, section 4.2): the detections of a class, in falling order of score, are each compared
with the object of the class in their image that they overlap most, of equal overlaps the first. Where that IoU is above
0.5 the detection is right if it is the first on this object and false if it is not; on a `difficult` object it is
neither; all other detections are false. Difficult objects do not count for recall.

The kit counts pixels and includes the last one. A box xmin..xmax of a VOC file is read as the span (xmin - 1, xmax),
and `submission.voc` writes detections by the same rule, so the kit's IoU with its `+ 1` is the plain IoU of spans used
here.

Legend: D detections, M annotations, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.overlaps import overlapping
from engine.evaluation.metrics.protocol import VOC_RULES
from utils.truth import Truth

IOU = 0.5  # a detection is right above it
RECALLS = np.arange(11) * 0.1  # in double precision as the public programs have them, where 3 * 0.1 is not 0.3
CURVE_RECALLS = np.linspace(0, 1, 101)
COLUMNS = {"Images": 7, "Labels": 7, "Difficult": 9, "Detections": 10, "Recall": 6, "AP": 6}  # widths


@dataclass
class VocClass:
    """One class. AP and recall in [0, 1], -1 without objects that count; images, labels: those with objects that count
    and how many; difficult: objects that do not; detections: without those on difficult objects; curve (101,): the
    highest precision at each recall of `CURVE_RECALLS` or more."""

    AP: float
    recall: float
    images: int
    labels: int
    difficult: int
    detections: int
    curve: np.ndarray


@dataclass
class VocMetrics:
    """VOC's AP by one of `VOC_RULES`. AP: the mean over classes with objects that count, -1 if there are none; state
    (D,) int8: 1 of a right detection, 0 of a false one, -1 of one on a difficult object."""

    rule: str
    AP: float
    images: int
    per_class: list[VocClass]
    state: np.ndarray


def voc_metrics(truth: Truth, found: Found, rule: str) -> VocMetrics:
    """VOC's AP of all detections: VOC has no limit per image.

    Crowds and annotations marked `ignore` act like difficult objects, with the plain IoU. rule: a key of `VOC_RULES`.
    """
    difficult = truth.crowd | truth.marked
    objects, overlaps = best_objects(truth, found)
    reached = overlaps > IOU
    counted = ~(reached & difficult[objects]) if len(difficult) else np.ones(len(found), bool)
    order = np.lexsort((-found.scores, found.labels))  # stable: equal scores stay in the order of the images
    order = order[counted[order]]
    right = _first_hits(objects[order], reached[order])
    edges = np.searchsorted(found.labels[order], np.arange(len(truth.category_ids) + 1)).tolist()
    per_class = [_judge(truth, difficult, k, right[start:end], rule)
                 for k, (start, end) in enumerate(zip(edges, edges[1:], strict=False))]
    defined = [row.AP for row in per_class if row.labels]
    state = np.full(len(found), -1, np.int8)
    state[order] = right
    return VocMetrics(rule, float(np.mean(defined)) if defined else -1.0, len(truth.image_ids), per_class, state)


def best_objects(truth: Truth, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """The object (D,) of its class and image that each detection overlaps most, of equals the first, and their IoU;
    0 and an IoU of 0 where a detection reaches `IOU` with none."""
    plain = replace(truth, crowd=np.zeros(len(truth.crowd), bool))
    detections, objects, overlaps = overlapping(plain, found, IOU)
    order = np.lexsort((-overlaps, detections))  # stable
    first = order[np.flatnonzero(np.diff(detections[order], prepend=-1))]
    best, reached = np.zeros(len(found), np.int64), np.zeros(len(found))
    best[detections[first]], reached[detections[first]] = objects[first], overlaps[first]
    return best, reached


def ap_11_point(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over the recalls 0, 0.1 .. 1 of the highest precision at that recall or more, 0 where it is not reached.

    recall, precision (D,): after each detection in falling order of score.
    """
    return float(envelope(recall, precision, RECALLS).sum() / len(RECALLS))


def ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """The area under the highest precision at each recall or more; arguments as of `ap_11_point`."""
    steps = np.diff(recall, prepend=0)
    return float((steps * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def format_voc_table(metrics: VocMetrics, names: Sequence[str], kept: bool = False) -> str:
    """A text table: a row for all classes and one per class with objects; undefined values are '-'.

    kept: the data say `difficult: keep`, so that no object is known to be difficult.
    """
    width = min(max(len("Class"), *map(len, names)), 24)
    rows = [row for row in metrics.per_class if row.labels]
    recall = float(np.mean([row.recall for row in rows])) if rows else -1.0
    total = [sum(getattr(row, column) for row in metrics.per_class) for column in ("labels", "difficult", "detections")]
    heads = "".join(f" {head:>{size}}" for head, size in COLUMNS.items())
    lines = [f"{VOC_RULES[metrics.rule]} at IoU above {IOU}", f"{'Class':<{width}}{heads}",
             _row("all", width, [metrics.images, *total], (recall, metrics.AP))]
    for name, row in zip(names, metrics.per_class, strict=True):
        if row.labels:
            short = name if len(name) <= width else name[:width - 1] + "…"
            lines.append(_row(short, width, [row.images, row.labels, row.difficult, row.detections],
                              (row.recall, row.AP)))
    absent = len(metrics.per_class) - len(rows)
    if absent:
        lines.append(f"{absent} of {len(metrics.per_class)} classes have no object that counts: not in the mean")
    if kept:
        lines.append("note: the data YAML says `difficult: keep`: difficult objects count here, and VOC does not count "
                     "them")
    return "\n".join(lines)


def _first_hits(objects: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """(D,) bool: the first detection, in this order, of those that reach the same object."""
    right = np.zeros(len(objects), bool)
    hits = np.flatnonzero(reached)
    right[hits[np.unique(objects[hits], return_index=True)[1]]] = True
    return right


def _judge(truth: Truth, difficult: np.ndarray, label: int, right: np.ndarray, rule: str) -> VocClass:
    """The numbers of a class from its detections (D,) in falling order of score, those that do not count left out."""
    own = truth.label == label
    objects = truth.image[own & ~difficult]
    counts = {"images": len(np.unique(objects)), "labels": len(objects), "difficult": int((own & difficult).sum()),
              "detections": len(right)}
    if not len(objects):
        return VocClass(-1.0, -1.0, curve=np.zeros(len(CURVE_RECALLS)), **counts)
    hits = right.cumsum()
    recall, precision = hits / len(objects), hits / np.arange(1, len(hits) + 1)
    ap = {"voc07": ap_11_point, "voc": ap_area}[rule](recall, precision)
    return VocClass(ap, float(recall[-1]) if len(recall) else 0.0,
                    curve=envelope(recall, precision, CURVE_RECALLS), **counts)


def envelope(recall: np.ndarray, precision: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The highest precision at each recall of `at` or more, 0 where it is not reached."""
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return highest[np.searchsorted(recall, at, "left")]


def _row(name: str, width: int, counts: Sequence[int], values: Sequence[float]) -> str:
    cells = [*map(str, counts), *("-" if value < 0 else f"{value:.4f}" for value in values)]
    return f"{name:<{width}}" + "".join(f" {cell:>{size}}" for cell, size in zip(cells, COLUMNS.values(), strict=True))
