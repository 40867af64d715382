"""COCO's bounding-box protocol, bit-identical to pycocotools' COCOeval and many times faster.

COCOeval matches detections to objects separately for each image, class, area range and IoU threshold. Here the 4 area
ranges x 10 thresholds are 40 bits of one integer, so each detection visits the objects it overlaps once.

Legend: T = 10 IoU thresholds, R = 101 recall thresholds, K classes, A = 4 area ranges (all, small, medium, large),
D detections, G objects of one image and class. Bit a*T + t of a mask stands for area range a and threshold t.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.truth import AREA_RANGES, Truth

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.minimum([(0, 1e10), *AREA_RANGES.values()], 1e10)
MAX_DETECTIONS = 100  # detections per image and class
T, R, A = len(IOUS), len(RECALLS), len(AREAS)
_ALL = (1 << A * T) - 1
_RANGE = [((1 << T) - 1) << a * T for a in range(A)]  # all thresholds of one area range
_UP_TO = [sum(((1 << n) - 1) << a * T for a in range(A)) for n in range(T + 1)]  # the first n thresholds, all ranges


@dataclass
class MatchedDetections:
    """Detections of all images, grouped by class, then by image in the order of ids, then by falling score.

    classes, images, ranks (D,) int64: class index, position of the image, rank among those of its class and image.
    boxes (D, 4) left, top, width, height; scores (D,). hits, ignored (D,) int64 masks: matched to an object; neither
    true nor false positive.
    """

    classes: np.ndarray
    images: np.ndarray
    ranks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray


class GroundTruth:
    """A `Truth` sorted for the protocol: by class, then by image in the order of ids, then in file order.

    groups: (class, rank of the image) -> rows; counts (K, A): objects that count for recall; image_place (n,): rank in
    the order of ids of the image at each position of the truth.
    """

    def __init__(self, truth: Truth) -> None:
        by_id = sorted(range(len(truth.image_ids)), key=lambda k: id_order(truth.image_ids[k]))
        self.image_place = np.empty(len(by_id), np.int64)
        self.image_place[by_id] = np.arange(len(by_id))
        image = self.image_place[truth.image]
        order = np.lexsort((image, truth.label))  # stable
        areas, crowd = truth.areas[order][:, None], truth.crowd[order]
        # written as in COCOeval, where an area of NaN counts in every range
        counted = ~crowd[:, None] & ~((areas < AREAS[:, 0]) | (areas > AREAS[:, 1]))  # (M, A)
        self.boxes, self.crowd, self.masks = truth.boxes[order], crowd, (counted * np.array(_RANGE)).sum(1)
        key = np.stack((truth.label[order], image[order]))
        starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(0)]) if len(order) else np.zeros(0, int)
        ends = [*starts[1:].tolist(), len(order)]
        self.groups = {(k, i): slice(start, end) for k, i, start, end in
                       zip(*key[:, starts].tolist(), starts.tolist(), ends, strict=False)}
        self.counts = np.zeros((len(truth.category_ids), A), dtype=np.int64)
        np.add.at(self.counts, key[0], counted)


def id_order(value: Hashable) -> tuple[bool, Any]:
    """Sort key of ids, as COCOeval sorts them; strings after numbers where a file has both."""
    return isinstance(value, str), value


def match_detections(objects: GroundTruth, images: np.ndarray, classes: np.ndarray, boxes: np.ndarray,
                     scores: np.ndarray, max_det: int = MAX_DETECTIONS) -> MatchedDetections:
    """Match detections to objects at each IoU threshold and area range.

    images (position in the truth), classes, scores (D,), boxes (D, 4) left, top, width, height, all in the order of
    COCO's result rows. Only the best `max_det` of an image and class are kept.
    """
    images = objects.image_place[images]
    order = np.lexsort((-scores, images, classes))  # stable, as COCOeval's merge sort
    classes, images, boxes, scores = classes[order], images[order], boxes[order], scores[order]
    key = np.stack((classes, images))
    starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(0)]) if len(scores) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(scores)])
    ranks = np.arange(len(scores)) - np.repeat(starts, sizes)
    hits, ignored = np.zeros(len(scores), np.int64), np.zeros(len(scores), np.int64)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        rows = objects.groups.get((int(classes[start]), int(images[start])))
        if rows:
            part = slice(start, start + min(size, max_det))
            hits[part], ignored[part] = _match_group(boxes[part], objects.boxes[rows], objects.crowd[rows],
                                                     objects.masks[rows].tolist())
    areas = (boxes[:, 2] * boxes[:, 3])[:, None]
    outside = (areas < AREAS[:, 0]) | (areas > AREAS[:, 1])  # (D, A)
    ignored |= ~hits & (outside * np.array(_RANGE)).sum(1)
    keep = ranks < max_det
    return MatchedDetections(*(values[keep] for values in (classes, images, ranks, boxes, scores, hits, ignored)))


def _match_group(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray,
                 counts: list[int]) -> tuple[list[int], list[int]]:
    """Masks of hits and of ignored hits for boxes (D, 4) in descending score against the objects of one image and
    class: boxes (G, 4), crowd (G,), and the area ranges in which each counts, as masks.

    COCO's rule: the unmatched object of highest IoU that counts in this area range; failing that, the one of highest
    IoU that does not count (crowd, or outside the range). A crowd may be matched any number of times. Of equal overlaps
    the later object wins.
    """
    overlaps = coco_mask.iou(boxes, objects, crowd.astype(np.uint8).tolist())  # (D, G)
    passed = np.searchsorted(IOUS, overlaps, side="right")
    free = [_ALL] * len(objects)
    hits, ignored = [0] * len(boxes), [0] * len(boxes)
    for d in np.flatnonzero(passed.any(1)).tolist():
        near = np.flatnonzero(passed[d])
        near = near[np.argsort(overlaps[d, near], kind="stable")][::-1].tolist()  # descending IoU, ties: later first
        reach = {g: _UP_TO[n] for g, n in zip(near, passed[d, near].tolist(), strict=True)}
        open_ = _ALL
        for g in near:
            took = open_ & reach[g] & free[g] & counts[g]
            open_ ^= took
            free[g] ^= took
        hits[d] = _ALL ^ open_
        for g in near:
            took = open_ & reach[g] & ~counts[g] & (_ALL if crowd[g] else free[g])
            open_ ^= took
            free[g] &= ~took
            hits[d] |= took
            ignored[d] |= took
    return hits, ignored


def accumulate(objects: GroundTruth, found: MatchedDetections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """COCOeval's `accumulate`: precision (T, R, K, A) at the recall thresholds, recall (T, K, A), and recall (T, K, 2)
    of the best 1 and 10 detections of each image; -1 where a class has no object in the area range."""
    n_classes = len(objects.counts)
    precision, recall = -np.ones((T, R, n_classes, A)), -np.ones((T, n_classes, A))
    recall_at_1_10 = -np.ones((T, n_classes, 2))
    edges = np.searchsorted(found.classes, np.arange(n_classes + 1))
    for k in range(n_classes):
        part = slice(edges[k], edges[k + 1])
        order = np.argsort(-found.scores[part], kind="stable")
        hits, ignored, ranks = (values[part][order] for values in (found.hits, found.ignored, found.ranks))
        for a, count in enumerate(objects.counts[k].tolist()):
            if count:
                tp, fp = _tp_fp(hits, ignored, a)
                precision[:, :, k, a], recall[:, k, a] = _interpolate(tp.cumsum(1), fp.cumsum(1), count)
        if objects.counts[k, 0]:
            tp, _ = _tp_fp(hits, ignored, 0)
            for i, best in enumerate((1, 10)):
                recall_at_1_10[:, k, i] = tp[:, ranks < best].sum(1) / objects.counts[k, 0]
    return precision, recall, recall_at_1_10


def _tp_fp(hits: np.ndarray, ignored: np.ndarray, a: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) bool each: true and false positives in area range `a`; ignored detections are neither."""
    bits = (np.int64(1) << np.arange(a * T, (a + 1) * T))[:, None]
    counted = (ignored & bits) == 0
    hit = (hits & bits) != 0
    return hit & counted, ~hit & counted


def _interpolate(tp: np.ndarray, fp: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative true and false positives (T, D) -> precision (T, R), the maximum at this recall or higher, and final
    recall (T,)."""
    precision, final = np.zeros((T, R)), np.zeros(T)
    if tp.shape[1]:
        recall = tp / count
        envelope = tp / (fp + tp + np.spacing(1))
        envelope = np.maximum.accumulate(envelope[:, ::-1], 1)[:, ::-1]
        final = recall[:, -1]
        for t in range(T):
            places = np.searchsorted(recall[t], RECALLS, side="left")
            reached = places < recall.shape[1]
            precision[t, reached] = envelope[t, places[reached]]
    return precision, final
