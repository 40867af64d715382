"""COCO's matching of detections and objects at several overlaps at once, for numbers that need every single match.

The engine gives precision arrays; VisDrone's rule and the curve over object size need the fate of each detection. Only
pairs that overlap enough are kept, and the detections of all images and classes are matched side by side: first the
best one of each image and class, then the second, and so on.

Legend: D detections, M annotations, P pairs of a detection and an object of its image and class.
"""

from collections.abc import Sequence

import numpy as np

from engine.evaluation.metrics.engine import Matches
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.protocol import ANY_AREA
from utils.truth import Truth

PAIRS = 1 << 18  # looked at together, some 30 MB


def match_at(truth: Truth, found: Found, ious: Sequence[float], max_det: int | None = None) -> list[Matches]:
    """What became of each detection at each of some IoU thresholds, as `HotcocoEngine.match` says it.

    max_det: the best of an image and class take part; None: all.
    """
    taking_part = np.ones(len(found), bool) if max_det is None else found.is_best(max_det)
    rank = np.empty(len(found), np.int64)
    rank[np.lexsort((-found.scores, found.labels, found.images))] = np.arange(len(found))
    low, high = ANY_AREA
    ignored = truth.crowd | (truth.areas < low) | (truth.areas > high)
    area = found.boxes[:, 2] * found.boxes[:, 3]
    blank = np.where(taking_part & ~((area < low) | (area > high)), 0, -1).astype(np.int8)
    det, obj, iou = overlapping_pairs(truth, found, min(ious, default=1.0))
    kept = taking_part[det]
    det, obj, iou = det[kept], obj[kept], iou[kept]
    # each detection's pairs in the order of its preference: objects first, the greatest overlap, of equal ones the last
    order = np.lexsort((-obj, -iou, ignored[obj], rank[det]))
    det, obj, iou = det[order], obj[order], iou[order]
    group = truth.image[obj] * max(len(truth.category_ids), 1) + truth.label[obj]
    return [_matched(blank, det[rows], obj[rows], group[rows], ignored, truth.crowd)
            for t in ious for rows in [np.flatnonzero(iou >= min(t, 1 - 1e-10))]]


def _matched(blank: np.ndarray, det: np.ndarray, obj: np.ndarray, group: np.ndarray, ignored: np.ndarray,
             crowd: np.ndarray) -> Matches:
    """Matches among pairs (P,) that all overlap enough, those of a group together, best detection first."""
    state, objects = blank.copy(), np.full(len(blank), -1, np.int64)
    if not len(det):
        return Matches(state, objects)
    fresh = np.r_[True, det[1:] != det[:-1]]  # the first pair of a detection
    number = fresh.cumsum() - 1  # of the detection among those with pairs
    first = np.r_[True, group[1:] != group[:-1]]
    place = number - np.maximum.accumulate(np.where(first, number, 0))  # of the detection in its group
    order = np.argsort(place, kind="stable")
    det, obj = det[order], obj[order]
    edges = np.searchsorted(place[order], np.arange(place.max() + 2))
    taken = np.zeros(len(ignored), bool)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        own, of = det[start:end], obj[start:end]
        free = ~taken[of]
        own, of = own[free], of[free]
        chosen = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else own
        own, of = own[chosen], of[chosen]
        taken[of[~crowd[of]]] = True
        state[own] = np.where(ignored[of], -1, 1)
        objects[own] = np.where(ignored[of], -1, of)
    return Matches(state, objects)


def overlapping_pairs(truth: Truth, found: Found, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections (P,), annotations (P,) and their IoU (P,) wherever it is at least `least` above 0 in one image and
    class; of a crowd the intersection over the detection. To the last bit as pycocotools computes it."""
    n = len(truth.image_ids)
    key = truth.label * n + truth.image
    order = np.argsort(key, kind="stable")
    own = found.labels * n + found.images
    starts = np.searchsorted(key[order], own, "left")
    sizes = np.searchsorted(key[order], own, "right") - starts
    rows = np.flatnonzero(sizes)
    ends = np.cumsum(sizes[rows])
    chunks = np.searchsorted(ends, np.arange(PAIRS, ends[-1], PAIRS)) if len(rows) else []
    spans = [_spans(boxes) for boxes in (found.boxes, truth.boxes)]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in np.split(rows, chunks):
        first = np.cumsum(sizes[part]) - sizes[part]
        step = np.arange(sizes[part].sum()) - np.repeat(first, sizes[part])
        det, obj = np.repeat(part, sizes[part]), order[np.repeat(starts[part], sizes[part]) + step]
        parts.append(_overlapping(det, obj, spans, truth.crowd, least))
    return tuple(np.concatenate([part[k] for part in parts]) for k in range(3))


def _spans(boxes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Left, right, top, bottom and area (N,) of boxes (N, 4)."""
    left, top, width, height = (np.ascontiguousarray(column) for column in boxes.T)
    return left, width + left, top, height + top, width * height


def _overlapping(det: np.ndarray, obj: np.ndarray, spans: list[tuple[np.ndarray, ...]], crowd: np.ndarray,
                 least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those of the pairs (P,) that overlap enough."""
    ours, theirs = spans
    common = np.ones(len(det))
    for low, high in ((0, 1), (2, 3)):
        side = np.minimum(ours[high][det], theirs[high][obj]) - np.maximum(ours[low][det], theirs[low][obj])
        near = np.flatnonzero(side > 0)
        det, obj, common = det[near], obj[near], common[near] * side[near]
    union = np.where(crowd[obj], ours[4][det], ours[4][det] + theirs[4][obj] - common)
    iou = common / union
    enough = iou >= min(least, 1 - 1e-10)
    return det[enough], obj[enough], iou[enough]
