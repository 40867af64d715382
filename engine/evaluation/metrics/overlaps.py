"""Pairs of a detection and an object of its image that overlap, with the IoU that COCO's protocol computes."""

import numpy as np

from engine.evaluation.metrics.found import Found
from utils.truth import Truth

PAIRS = 1 << 20  # pairs that are compared at a time, some 100 MB


def overlapping(truth: Truth, found: Found, least: float, by_class: bool = True) -> tuple[np.ndarray, np.ndarray,
                                                                                          np.ndarray]:
    """Detections (P,), objects (P,) and IoU (P,) of all pairs with an IoU of `least` or more, detections ascending and
    the objects of each in the order of the truth. by_class: only pairs of one class.

    With a crowd the IoU is the share of the detection inside (pycocotools, `bbIou`); in double precision, operation by
    operation as there.
    """
    k = len(truth.category_ids) if by_class else 1
    key = truth.image * k + truth.label * by_class
    order = np.argsort(key, kind="stable")
    own = found.images * k + found.labels * by_class
    starts = np.searchsorted(key[order], own, "left")
    sizes = np.searchsorted(key[order], own, "right") - starts
    rows = np.flatnonzero(sizes)
    ends = np.cumsum(sizes[rows])
    cuts = np.searchsorted(ends, np.arange(PAIRS, ends[-1], PAIRS)) if len(rows) else []
    parts = []
    for part in np.split(rows, cuts):
        counts = sizes[part]
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        detections = np.repeat(part, counts)
        objects = order[np.repeat(starts[part], counts) + step]
        iou = _iou(found.boxes[detections], truth.boxes[objects], truth.crowd[objects])
        near = np.flatnonzero(iou >= least)
        parts.append((detections[near], objects[near], iou[near]))
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _iou(first: np.ndarray, second: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    width, height = (np.minimum(first[:, k] + first[:, k + 2], second[:, k] + second[:, k + 2])
                     - np.maximum(first[:, k], second[:, k]) for k in (0, 1))
    common = np.where((width > 0) & (height > 0), width * height, 0.0)
    own, other = first[:, 2] * first[:, 3], second[:, 2] * second[:, 3]
    union = np.where(crowd, own, own + other - common)
    return np.divide(common, union, out=np.zeros(len(common)), where=common > 0)
