"""Detections judged against ground truth by a protocol: the numbers of a table.

Legend: T, R, K, A, L as in `engine.evaluation.metrics.engine`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.evaluation.metrics.curves import CONFIDENCES, Curves, curves_of
from engine.evaluation.metrics.engine import Arrays, Engine, open_engine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.protocol import COCO, Protocol
from utils.truth import Truth, most_objects

UNDEFINED = {"precision": -1.0, "recall": -1.0, "f1": -1.0}
LIMITS = (500, 1000, 2000, 5000, 10_000)  # detections per image and class where images hold more than count


@dataclass
class Scores:
    """The numbers of all classes, or of one. values: those of the protocol by name, in [0, 1], or -1 where there is no
    object. precision, recall, f1: at IoU 0.5 (or the protocol's least) and at the confidence of the highest mean F1
    over classes, as YOLO prints them. n_images, n_labels: images and objects of the truth, without crowds."""

    values: dict[str, float]
    precision: float
    recall: float
    f1: float
    n_images: int
    n_labels: int

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclass
class AlternativeMetrics:
    """The numbers by another rule, a row of the table; why: what the rule is and why it is shown."""

    title: str
    why: str
    values: dict[str, float]


@dataclass
class Metrics(Scores):
    """The numbers over all classes, per class, the curves, and the confidence of the highest mean F1.

    unseen: images of the truth that nobody looked at; their objects count as missed. alternatives: the numbers by other
    rules, where the protocol's own are of little use on this truth.
    """

    protocol: Protocol
    confidence: float
    per_class: list[Scores]
    curves: Curves
    unseen: int
    alternatives: list[AlternativeMetrics] = field(default_factory=list)


def judge(truth: Truth, found: Found, names: Sequence[str] = (), protocol: Protocol = COCO) -> Metrics:
    """The numbers of detections by a protocol. names: of the classes, for messages."""
    engine = open_engine(truth, found)
    arrays = engine.accumulate(protocol)
    images, labels = count_objects(truth, protocol)
    at = protocol.ious.index(0.5) if 0.5 in protocol.ious else 0
    curves = curves_of(found, engine.match(protocol.ious[at], protocol.max_det), arrays.precision[at, :, :, 0, -1],
                       labels)
    best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
    at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in UNDEFINED} for i, c in enumerate(curves.classes)}
    per_class = [Scores(stats_of(arrays, protocol, [k]), **at_best.get(k, UNDEFINED), n_images=images[k],
                        n_labels=labels[k]) for k in range(len(labels))]
    mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in UNDEFINED} if at_best else UNDEFINED
    return Metrics(stats_of(arrays, protocol), **mean, n_images=len(truth.image_ids), n_labels=sum(labels),
                   protocol=protocol, confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves,
                   unseen=int((~found.seen).sum()),
                   alternatives=alternatives(truth, found, list(names), protocol, engine))


def stats_of(arrays: Arrays, protocol: Protocol, classes: Sequence[int] | None = None) -> dict[str, float]:
    """The numbers of a protocol, over all classes or some: means of the defined values, -1 where there are none.

    Over all classes they are summed in pycocotools' order of categories, so that they are bit-identical.
    """
    chosen = arrays.id_order if classes is None else np.asarray(classes, np.int64)
    areas, values = list(protocol.areas), {}
    for stat in protocol.stats:
        a, n = areas.index(stat.area), protocol.max_dets.index(stat.max_det)
        array = arrays.precision[:, :, chosen, a, n] if stat.kind == "AP" else arrays.recall[:, chosen, a, n]
        if stat.iou is not None:
            array = array[protocol.ious.index(stat.iou)]
        defined = array[array > -1]
        values[stat.name] = float(defined.mean()) if defined.size else -1.0
    return values


def count_objects(truth: Truth, protocol: Protocol) -> tuple[list[int], list[int]]:
    """Images with objects that count, and how many such objects there are, of each class."""
    low, high = next(iter(protocol.areas.values()))
    counted = ~truth.crowd & ~((truth.areas < low) | (truth.areas > high))  # an area of NaN counts, as in COCOeval
    k = len(truth.category_ids)
    pairs = np.unique(truth.label[~truth.crowd] * len(truth.image_ids) + truth.image[~truth.crowd])
    images = np.bincount(pairs // max(len(truth.image_ids), 1), minlength=k)
    return images.tolist(), np.bincount(truth.label[counted], minlength=k).tolist()


def alternatives(truth: Truth, found: Found, names: list[str], protocol: Protocol,
                 engine: Engine) -> list[AlternativeMetrics]:
    """Numbers by other rules: more detections than the protocol's, box areas, `ignore` respected."""
    rows, limit = [], protocol.max_det
    count, image, label = most_objects(truth, by_class=True)
    if count > limit:
        more = next((n for n in LIMITS if n >= count), count)
        name = names[label] if names else truth.category_ids[label]
        why = (f"image {truth.image_ids[image]} has {count} objects of class {name}: the numbers above take the best "
               f"{limit} detections per image and class, so they cannot reach 1; this row takes {more} (AP@{more}, "
               f"and its ARs likewise)")
        other = protocol.with_limit(more)
        rows.append(AlternativeMetrics(f"all, {more} a class", why, stats_of(engine.accumulate(other), other)))
    odd = truth.odd_areas()
    if odd:
        why = (f"of {len(truth.areas)} areas {odd}: numbers by size go by them as they are; this row goes by width "
               f"times height of the boxes")
        rows.append(AlternativeMetrics("all, box areas", why, _values(truth.by_box_area(), found, protocol)))
    count = int((truth.marked & ~truth.crowd).sum())
    if count:
        why = (f"{count} annotations are marked `ignore`, which pycocotools does not know and takes for objects; in "
               f"this row they are ignore regions, as in training")
        rows.append(AlternativeMetrics("all, `ignore`", why, _values(truth.marked_as_crowd(), found, protocol)))
    return rows


def _values(truth: Truth, found: Found, protocol: Protocol) -> dict[str, float]:
    return stats_of(open_engine(truth, found).accumulate(protocol), protocol)
