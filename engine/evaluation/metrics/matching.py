"""What becomes of each detection at every IoU threshold and object size, for numbers that need every single match.

The engine's libraries give one threshold at a time, or a Python object for each image, class and size. This is
COCOeval's rule (`evaluateImg`) for all images at once; tests compare its numbers with theirs.

Legend: D detections, M annotations, T IoU thresholds, A area ranges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.overlaps import overlapping
from engine.evaluation.metrics.protocol import ANY_AREA, NO_LIMIT, Protocol
from utils.truth import Truth


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of each detection at one IoU threshold, over all areas. state (D,) int8: 1 right, 0 false, -1 not
    counted (in a crowd, or beyond the limit); objects (D,) int64: the annotation that it is right on, or -1."""

    state: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True, eq=False)
class Outcomes:
    """found: the detections that the protocol counts, D of them; state (A, T, D) int8: 1 right, 0 false, -1 not
    counted; inside (A, D) bool: of a size in the range; rank (D,): from 0, of its image and class, by falling score;
    objects (A, M) bool: annotations that count; rows (D,): which of all detections these are; matched (A, T, D) int64,
    where it was asked for: the annotation that a right detection is on, else -1."""

    found: Found
    state: np.ndarray
    inside: np.ndarray
    rank: np.ndarray
    objects: np.ndarray
    rows: np.ndarray
    matched: np.ndarray | None = None


def match_at(truth: Truth, found: Found, ious: Sequence[float], max_det: int = NO_LIMIT) -> list[Matches]:
    """What became of each detection at each of some IoU thresholds, over all areas. max_det: the
    best of an image and class take part."""
    protocol = Protocol("matches", "", tuple(ious), {"all": ANY_AREA}, (max_det,), ())
    outcomes = outcomes_of(truth, found, protocol, objects_too=True)
    told = []
    for row, on in zip(outcomes.state[0], outcomes.matched[0], strict=True):
        state, objects = np.full(len(found), -1, np.int8), np.full(len(found), -1, np.int64)
        state[outcomes.rows], objects[outcomes.rows] = row, on
        told.append(Matches(state, objects))
    return told


def outcomes_of(truth: Truth, found: Found, protocol: Protocol, objects_too: bool = False) -> Outcomes:
    """Match the detections of a protocol by rule "coco". objects_too: say which object each is right on.

    In falling order of score each detection takes the free object of greatest IoU at or above the threshold, of equal
    ones the last; ignored ones only where no other is left. Crowds can be taken again and again.
    """
    rank = found.ranks()
    rows = np.flatnonzero(rank < protocol.max_det)
    found, rank = found[rows], rank[rows]
    low, high = np.array(list(protocol.areas.values())).T[:, :, None]  # (A, 1) each
    ignored = truth.crowd | (truth.areas < low) | (truth.areas > high)  # (A, M); an area of NaN is in every range
    sizes = found.boxes[:, 2] * found.boxes[:, 3]
    inside = ~((sizes < low) | (sizes > high))
    state = np.where(inside, 0, -1).astype(np.int8)[:, None].repeat(len(protocol.ious), 1)
    limits = np.minimum(protocol.ious, 1 - 1e-10)[None, :, None]  # as in pycocotools
    detections, objects, ious = overlapping(truth, found, float(limits.min()))
    matched = np.full(state.shape, -1) if objects_too else None
    taken = np.zeros((*state.shape[:2], len(truth.image)), bool)
    near, pair = np.unique(detections, return_inverse=True)
    step = found[near].ranks()[pair]  # (P,) how many of the image and class that overlap an object come before
    order = np.lexsort((ious, detections, step))  # stable: of equal IoUs the last object of the file is last
    for part in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):
        if not len(part):
            continue
        own, at, n = objects[part], detections[part], len(part)
        free = (~taken[:, :, own] | truth.crowd[own]) & (ious[part] >= limits)  # (A, T, n)
        value = free * (np.arange(1, n + 1) + n * ~ignored[:, own])[:, None]  # objects that count before ignored ones
        starts = np.flatnonzero(np.diff(at, prepend=-1))
        best = np.maximum.reduceat(value, starts, axis=2)
        a, t, d = np.nonzero(best)
        chosen = best[a, t, d]
        taken[a, t, own[(chosen - 1) % n]] = True
        state[a, t, at[starts][d]] = np.where(chosen > n, 1, -1)
        if objects_too:
            matched[a, t, at[starts][d]] = np.where(chosen > n, own[(chosen - 1) % n], -1)
    return Outcomes(found, state, inside, rank, ~ignored, rows, matched)
