"""The numbers by rules other than COCO's, in the same form."""

import numpy as np

from engine.evaluation.metrics.curves import curves_of
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Matches
from engine.evaluation.metrics.protocol import Protocol
from engine.evaluation.metrics.scores import Metrics, metrics_of
from engine.evaluation.metrics.visdrone import visdrone_arrays
from engine.evaluation.metrics.voc import voc_metrics
from utils.truth import Truth


def by_visdrone(truth: Truth, found: Found, protocol: Protocol) -> Metrics:
    """By the rule of VisDrone's toolkit. Objects that are counted are those that are neither dropped nor ignored."""
    arrays = visdrone_arrays(truth, found, protocol)

    def values(classes: list[int]) -> dict[str, float]:
        found = {}
        for stat in protocol.stats:
            array = arrays.ap if stat.kind == "AP" else arrays.ar[:, :, protocol.max_dets.index(stat.max_det)]
            array = (array if stat.iou is None else array[[protocol.ious.index(stat.iou)]])[:, classes]
            defined = array[array > -1]
            found[stat.name] = float(defined.mean()) if defined.size else -1.0
        return found

    own, k = arrays.truth, len(truth.category_ids)
    counted = ~own.crowd
    pairs = np.unique(np.column_stack((own.label[counted], own.image[counted])), axis=0)
    counts = [np.bincount(labels, minlength=k).tolist() for labels in (pairs[:, 0], own.label[counted])]
    curves = curves_of(arrays.found, arrays.matches, arrays.curve, arrays.totals.tolist())
    return metrics_of(protocol, values(list(range(k))), [values([c]) for c in range(k)], curves, tuple(counts),
                      found.seen)


def by_voc(truth: Truth, found: Found, protocol: Protocol) -> Metrics:
    """By VOC's rule: AP and the recall of all detections."""
    own = voc_metrics(truth, found, protocol.rule)
    ap, recall = (stat.name for stat in protocol.stats)
    by_class = [{ap: row.AP, recall: row.recall} for row in own.per_class]
    recalls = [row.recall for row in own.per_class if row.labels]
    values = {ap: own.AP, recall: float(np.mean(recalls)) if recalls else -1.0}
    counts = [row.images for row in own.per_class], [row.labels for row in own.per_class]
    curve = np.array([row.curve for row in own.per_class]).reshape(len(by_class), -1).T
    curves = curves_of(found, Matches(own.state, np.full(len(found), -1)), curve, counts[1])
    metrics = metrics_of(protocol, values, by_class, curves, counts, found.seen)
    metrics.voc = own
    return metrics
