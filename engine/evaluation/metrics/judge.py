"""Detections judged against ground truth by a protocol: the numbers of a table.

Legend: T, R, K, A, L as in `engine.evaluation.metrics.engine`.
"""

from collections.abc import Sequence

import numpy as np

from engine.evaluation.metrics.curves import curves_of
from engine.evaluation.metrics.engine import Arrays, Engine, open_engine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import match_at
from engine.evaluation.metrics.protocol import COCO, Protocol
from engine.evaluation.metrics.rules import by_visdrone, by_voc
from engine.evaluation.metrics.scores import UNDEFINED, AlternativeMetrics, Metrics, Scores, SizeTable, metrics_of
from utils.truth import Truth, most_objects

__all__ = ["UNDEFINED", "AlternativeMetrics", "Metrics", "Scores", "judge", "stats_of"]
LIMITS = (500, 1000, 2000, 5000, 10_000)  # detections per image and class where images hold more than count


def judge(truth: Truth, found: Found, names: Sequence[str] = (), protocol: Protocol = COCO) -> Metrics:
    """The numbers of detections by a protocol. names: of the classes, for messages.

    Without any object all numbers are undefined, and the detections, which may be millions, are not looked at.
    """
    own = protocol.truth(truth)
    if not len(own.image):
        found = found[np.zeros(0, np.int64)]
    engine = open_engine(own, found) if protocol.rule == "coco" else None
    metrics = by_coco(engine, protocol) if engine else _by_rule(own, found, protocol)
    metrics.alternatives = alternatives(own, found, list(names), protocol, engine)
    return metrics


def by_coco(engine: Engine, protocol: Protocol) -> Metrics:
    """By COCO's matching and 101-point precision."""
    truth, found = engine.truth, engine.found
    arrays = engine.accumulate(protocol)
    counts = count_objects(truth, protocol)
    at = protocol.ious.index(0.5) if 0.5 in protocol.ious else 0
    matches = match_at(truth, found, [protocol.ious[at]], protocol.max_det)[0]
    curves = curves_of(found, matches, arrays.precision[at, :, :, 0, -1], counts[1])
    by_class = [stats_of(arrays, protocol, [k]) for k in range(len(truth.category_ids))]
    metrics = metrics_of(protocol, stats_of(arrays, protocol), by_class, curves, counts, found.seen)
    metrics.sizes = size_table(arrays, truth, protocol)
    return metrics


def _by_rule(truth: Truth, found: Found, protocol: Protocol) -> Metrics:
    return (by_visdrone if protocol.rule == "visdrone" else by_voc)(truth, found, protocol)


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
        values[stat.name] = _mean(array)
    return values


def _mean(array: np.ndarray) -> float:
    defined = array[array > -1]
    return float(defined.mean()) if defined.size else -1.0


def size_table(arrays: Arrays, truth: Truth, protocol: Protocol) -> SizeTable:
    """AP over all IoUs and objects, by class and size."""
    labels, k = tuple(protocol.areas)[1:], len(truth.category_ids)
    ap = np.array([[_mean(arrays.precision[:, :, c, a, -1]) for a in range(1, len(labels) + 1)] for c in range(k)])
    counts = [np.bincount(truth.label[_counted(truth, span)], minlength=k) for span in [*protocol.areas.values()][1:]]
    mean = [_mean(arrays.precision[:, :, arrays.id_order, a, -1]) for a in range(1, len(labels) + 1)]
    objects = np.array(counts, np.int64).reshape(len(labels), k).T
    return SizeTable(labels, ap.reshape(k, len(labels)), objects, np.array(mean))


def _counted(truth: Truth, span: tuple[float, float]) -> np.ndarray:
    """(M,) bool: the objects of an area range; an area of NaN counts, as in COCOeval."""
    return ~truth.crowd & ~((truth.areas < span[0]) | (truth.areas > span[1]))


def count_objects(truth: Truth, protocol: Protocol) -> tuple[list[int], list[int]]:
    """Images with objects that count, and how many such objects there are, of each class."""
    counted = _counted(truth, next(iter(protocol.areas.values())))
    k = len(truth.category_ids)
    pairs = np.unique(truth.label[~truth.crowd] * len(truth.image_ids) + truth.image[~truth.crowd])
    images = np.bincount(pairs // max(len(truth.image_ids), 1), minlength=k)
    return images.tolist(), np.bincount(truth.label[counted], minlength=k).tolist()


def alternatives(truth: Truth, found: Found, names: list[str], protocol: Protocol,
                 engine: Engine | None = None) -> list[AlternativeMetrics]:
    """Numbers by other rules: more detections than the protocol's, box areas, `ignore` respected.

    engine: of this truth and these detections, where the protocol's rule is COCO's.
    """
    def values(other: Protocol) -> dict[str, float]:
        return stats_of(engine.accumulate(other), other) if engine else _by_rule(truth, found, other).values

    rows, limit, by_class = [], protocol.max_det, protocol.rule == "coco"
    of, short = ("image and class", "a class") if by_class else ("image", "an image")
    count, image, label = most_objects(truth, by_class)
    more = next((n for n in LIMITS if n >= count), count)
    if count > limit:
        name = f" of class {names[label] if names else truth.category_ids[label]}" if by_class else ""
        why = (f"image {truth.image_ids[image]} has {count} objects{name}: the numbers above take the best {limit} "
               f"detections per {of}, so they cannot reach 1; this row takes {more} (AP@{more}, and its ARs likewise)")
        rows.append(AlternativeMetrics(f"all, {more} {short}", why, values(protocol.with_limit(more))))
    asked = protocol.beside or 0
    if asked > limit and not (count > limit and asked == more):
        why = (f"--max-det {asked}: this row takes the best {asked} detections per {of} (AP@{asked}, and its ARs "
               f"likewise), {protocol.name}'s numbers above the best {limit}")
        rows.append(AlternativeMetrics(f"all, {asked} {short}", why, values(protocol.with_limit(asked))))
    if protocol.rule != "coco":
        return rows  # no sizes, and `ignore` is respected
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
