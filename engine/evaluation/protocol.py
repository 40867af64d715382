"""COCO's bounding-box protocol, the same numbers as pycocotools' COCOeval to the last bit and many times faster.

COCOeval asks for each image, class, area range and IoU threshold anew which detection finds which object. Here the
4 area ranges x 10 thresholds are 40 bits of one integer: a detection walks once over the objects it overlaps.

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
MOST = 100  # detections per image and class
T, R, A = len(IOUS), len(RECALLS), len(AREAS)
_ALL = (1 << A * T) - 1
_RANGE = [((1 << T) - 1) << a * T for a in range(A)]  # all thresholds of one area range
_UP_TO = [sum(((1 << n) - 1) << a * T for a in range(A)) for n in range(T + 1)]  # the first n thresholds, all ranges


@dataclass
class Found:
    """Detections of all images, grouped by class, then by image in the order of ids, then by falling score.

    classes, images, ranks (D,) int64: class index, position of the image, place among those of its class and image.
    boxes (D, 4) left, top, width, height; scores (D,). hits, ignored (D,) int64 masks: found an object; counts neither
    as right nor as wrong.
    """

    classes: np.ndarray
    images: np.ndarray
    ranks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray


class Objects:
    """A `Truth` sorted for the protocol: by class, then by image in the order of ids, then as the file has them.

    groups: (class, place of the image) -> rows; counts (K, A): objects that can be found; image_place (n,): where the
    image at a position of the truth comes in the order of ids.
    """

    def __init__(self, truth: Truth) -> None:
        by_id = sorted(range(len(truth.image_ids)), key=lambda k: id_order(truth.image_ids[k]))
        self.image_place = np.empty(len(by_id), np.int64)
        self.image_place[by_id] = np.arange(len(by_id))
        image = self.image_place[truth.image]
        order = np.lexsort((image, truth.label))  # stable
        areas, crowd = truth.areas[order][:, None], truth.crowd[order]
        # as COCOeval asks, which lets an area that is no number count everywhere
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
    """A key by which ids sort as COCOeval sorts them; texts behind numbers where a file has both."""
    return isinstance(value, str), value


def judge(objects: Objects, images: np.ndarray, classes: np.ndarray, boxes: np.ndarray, scores: np.ndarray,
          most: int = MOST) -> Found:
    """Decide for each detection at each IoU and area range whether it is right.

    images (position in the truth), classes, scores (D,), boxes (D, 4) left, top, width, height, all in the order of
    COCO's result rows. Beyond the best `most` of an image and class none is kept.
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
            part = slice(start, start + min(size, most))
            hits[part], ignored[part] = _match(boxes[part], objects.boxes[rows], objects.crowd[rows],
                                               objects.masks[rows].tolist())
    areas = (boxes[:, 2] * boxes[:, 3])[:, None]
    outside = (areas < AREAS[:, 0]) | (areas > AREAS[:, 1])  # (D, A)
    ignored |= ~hits & (outside * np.array(_RANGE)).sum(1)
    keep = ranks < most
    return Found(*(values[keep] for values in (classes, images, ranks, boxes, scores, hits, ignored)))


def _match(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray,
           counts: list[int]) -> tuple[list[int], list[int]]:
    """Masks of hits and of ignored hits for boxes (D, 4) of falling score against the objects of one image and class:
    boxes (G, 4), which are crowds (G,), and the area ranges in which each counts, as a mask.

    COCO's rule: the best free object that counts in this area range; only without one, the best that does not count
    (crowd, or outside the range), where a crowd is never used up. Of equal overlaps the later object.
    """
    overlaps = coco_mask.iou(boxes, objects, crowd.astype(np.uint8).tolist())  # (D, G)
    passed = np.searchsorted(IOUS, overlaps, side="right")
    free = [_ALL] * len(objects)
    hits, ignored = [0] * len(boxes), [0] * len(boxes)
    for d in np.flatnonzero(passed.any(1)).tolist():
        near = np.flatnonzero(passed[d])
        near = near[np.argsort(overlaps[d, near], kind="stable")][::-1].tolist()  # best first, of equals the later
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


def accumulate(objects: Objects, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision (T, R, K, A) at the recall thresholds, recall (T, K, A), recall (T, K, 2) of the best 1 and 10 alone.

    -1 where a class has no object in the area range; the numbers of COCOeval's `accumulate`.
    """
    n_classes = len(objects.counts)
    precision, recall, few = -np.ones((T, R, n_classes, A)), -np.ones((T, n_classes, A)), -np.ones((T, n_classes, 2))
    edges = np.searchsorted(found.classes, np.arange(n_classes + 1))
    for k in range(n_classes):
        part = slice(edges[k], edges[k + 1])
        order = np.argsort(-found.scores[part], kind="stable")
        hits, ignored, ranks = (values[part][order] for values in (found.hits, found.ignored, found.ranks))
        for a, count in enumerate(objects.counts[k].tolist()):
            if count:
                right, wrong = _verdicts(hits, ignored, a)
                precision[:, :, k, a], recall[:, k, a] = _interpolate(right.cumsum(1), wrong.cumsum(1), count)
        if objects.counts[k, 0]:
            right, _ = _verdicts(hits, ignored, 0)
            for i, most in enumerate((1, 10)):
                few[:, k, i] = right[:, ranks < most].sum(1) / objects.counts[k, 0]
    return precision, recall, few


def _verdicts(hits: np.ndarray, ignored: np.ndarray, a: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) bool each: right and wrong detections of area range `a`; the others do not count."""
    bits = (np.int64(1) << np.arange(a * T, (a + 1) * T))[:, None]
    counted = (ignored & bits) == 0
    hit = (hits & bits) != 0
    return hit & counted, ~hit & counted


def _interpolate(right: np.ndarray, wrong: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cumulated (T, D) verdicts -> precision (T, R), each the best at this recall or beyond, and final recall (T,)."""
    precision, final = np.zeros((T, R)), np.zeros(T)
    if right.shape[1]:
        recall = right / count
        share = right / (wrong + right + np.spacing(1))
        share = np.maximum.accumulate(share[:, ::-1], 1)[:, ::-1]
        final = recall[:, -1]
        for t in range(T):
            places = np.searchsorted(recall[t], RECALLS, side="left")
            reached = places < recall.shape[1]
            precision[t, reached] = share[t, places[reached]]
    return precision, final
