"""Precision, recall and F1 over the confidence threshold, as the YOLO line draws them.

Legend: K classes that have objects, D detections.
"""

from dataclasses import dataclass

import numpy as np

from engine.evaluation.metrics.engine import RECALLS
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Matches

CONFIDENCES = np.linspace(0, 1, 1000)


@dataclass
class Curves:
    """Curves at one IoU threshold, 0.5 where the protocol has it, of the K classes that have objects.

    classes: their indices. pr_recall (101,), pr_precision (K, 101): COCO's interpolated precision. confidence (1000,):
    thresholds, at which precision, recall, f1 (K, 1000) are given.
    """

    classes: list[int]
    pr_recall: np.ndarray
    pr_precision: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def curves_of(found: Found, matches: Matches, precision: np.ndarray, labels: list[int]) -> Curves:
    """Curves over all areas, without detections in crowds. precision (R, K); labels: objects of each class."""
    classes = [k for k, count in enumerate(labels) if count]
    counted = np.flatnonzero(matches.state >= 0)
    order = counted[np.lexsort((-found.scores[counted], found.labels[counted]))]  # stable
    edges = np.searchsorted(found.labels[order], np.arange(len(labels) + 1))
    rows = [confidence_curves(matches.state[part] == 1, found.scores[part], labels[k])
            for k in classes for part in [order[edges[k]:edges[k + 1]]]]
    stacked = np.array(rows).reshape(len(rows), 3, len(CONFIDENCES))
    return Curves(classes, RECALLS, precision[:, classes].T, CONFIDENCES, *stacked.transpose(1, 0, 2))


def confidence_curves(hits: np.ndarray, scores: np.ndarray, n_labels: int) -> np.ndarray:
    """(3, 1000): precision, recall and F1 of one class over `CONFIDENCES`, interpolated as the YOLO line does.

    hits (N,) bool, scores (N,) in any order; n_labels > 0. Without detections all are 0.
    """
    if len(scores) == 0:
        return np.zeros((3, len(CONFIDENCES)))
    order = np.argsort(-scores, kind="stable")
    found = hits[order].cumsum()
    at = -scores[order]  # ascending, as np.interp requires
    precision = np.interp(-CONFIDENCES, at, found / np.arange(1, len(found) + 1), left=1)
    recall = np.interp(-CONFIDENCES, at, found / n_labels, left=0)
    return np.stack((precision, recall, 2 * precision * recall / (precision + recall + 1e-16)))
