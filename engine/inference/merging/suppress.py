"""Non-maximum suppression and merging of boxes in one frame, exact and without a loop over boxes.

NMM is non-maximum merging as in SAHI (Akyon et al. 2022, github.com/obss/sahi): what suppression would drop is merged
into the box that claims it.

Legend: N boxes, M merged ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from engine.inference.merging.pairs import matching_pairs

MANY = 4_000_000  # matching pairs of one pass; beyond, the better half of the boxes goes first

Joins = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Merged(NamedTuple):
    """Merged detections, best first: boxes (M, 4) float64 xyxy, scores (M,) float64, labels (M,) int64; source (M,)
    int64, the input row that each got its label from."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    source: np.ndarray


def best_first(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) the order in which boxes are looked at: highest score first, equal scores by x1, y1, x2, y2, then as given,
    so that it does not depend on the order of views."""
    order = np.argsort(-scores, kind="stable")
    equal = scores[order[1:]] == scores[order[:-1]]
    if equal.any():
        tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
        rows = order[tied]
        order[tied] = rows[np.lexsort((*boxes[rows].T[::-1], -scores[rows]))]
    return order


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, metric: str = "iou",
        threshold: float = 0.5) -> np.ndarray:
    """Rows (M,) of the boxes that survive greedy suppression within each class, in the order of `best_first`.

    boxes (N, 4) xyxy in any unit, scores (N,), labels (N,) int. A box is dropped if its overlap with a surviving one
    before it is `threshold` or more; metric: see `matching_pairs`. For suppression across classes give equal labels.
    Raises `ValueError` for shapes that disagree and for numbers that are not finite.
    """
    boxes, scores, labels = checked(boxes, scores, labels)
    order = best_first(boxes, scores)
    keeper = _greedy(boxes[order], labels[order], metric, threshold)
    return order[keeper == np.arange(len(order))]


def nmm(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, metric: str = "ios", threshold: float = 0.5,
        *, greedy: bool = True, joins: Joins | None = None) -> Merged:
    """Boxes merged with what overlaps them within each class; arguments and errors as of `nms`.

    Greedy (SAHI's GREEDYNMM): a box claims all later ones that match it and are not claimed. Otherwise (its NMM) what
    is claimed claims on for the same box. A claimed box whose overlap with the box as it has grown is still `threshold`
    or more is merged into it: the smallest box around both, with the higher score; another one is dropped. joins: told
    the rows (K,) of claimed boxes and of those that claim them, which of the claimed may be merged, (K,) bool; all by
    default.
    """
    boxes, scores, labels = checked(boxes, scores, labels)
    order = best_first(boxes, scores)
    ordered, groups = boxes[order], labels[order]
    n = len(order)
    if greedy:
        keeper = claimer = _greedy(ordered, groups, metric, threshold)
    else:
        claimer = _first_match(ordered, groups, metric, threshold)
        keeper = _roots(claimer)
    # Members of a box in the order in which they were claimed, those of one claimer as that method lists them.
    member = np.flatnonzero(keeper != np.arange(n))
    place = member if greedy else order[member]
    member = member[np.lexsort((place, claimer[member], keeper[member]))]
    if joins is not None:
        member = member[joins(order[member], order[keeper[member]])]
    kept = np.flatnonzero(keeper == np.arange(n))
    grown, best = ordered.copy(), scores[order]
    _grow(grown, best, keeper, member, metric, threshold)
    rank = np.argsort(-best[kept], kind="stable")
    kept = kept[rank]
    return Merged(grown[kept], best[kept], groups[kept], order[kept])


def checked(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as float64, float64 and int64. Raises `ValueError` where shapes disagree or a number is not finite."""
    boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    labels = np.asarray(labels, np.int64)
    n = len(scores)
    if boxes.shape != (n, 4) or scores.shape != (n,) or labels.shape != (n,):
        raise ValueError(f"expected boxes (N, 4), scores (N,) and labels (N,), got {boxes.shape}, {scores.shape} and "
                         f"{labels.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box or a score is not finite")
    return boxes, scores, labels


def _greedy(boxes: np.ndarray, groups: np.ndarray, metric: str, threshold: float) -> np.ndarray:
    """(N,) for boxes in order: the first survivor that matches each, a survivor itself."""
    first, second, count = [], [], 0
    n = len(boxes)
    for a, b in matching_pairs(boxes, groups, metric, threshold):
        first.append(a)
        second.append(b)
        count += len(a)
        if count > MANY and n > 2:  # so many matches leave few survivors: those of the better half claim first
            half = n // 2
            keeper = np.arange(n)
            keeper[:half] = _greedy(boxes[:half], groups[:half], metric, threshold)
            rest = np.concatenate((np.flatnonzero(keeper[:half] == np.arange(half)), np.arange(half, n)))
            if len(rest) < n:
                keeper[rest] = rest[_greedy(boxes[rest], groups[rest], metric, threshold)]
                return keeper
            count = -(n * n)  # nothing was dropped, so nothing is won by halving
    a, b = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (first, second))
    keeper = np.full(n, n)
    dead = _suppressed(n, a, b)
    claims = ~dead[a]
    np.minimum.at(keeper, b[claims], a[claims])
    return np.where(dead, keeper, np.arange(n))


def _suppressed(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) bool of greedy suppression over matches first < second, in rounds: in each, boxes that no undecided one
    comes before survive, and what they match is dropped."""
    dead = np.zeros(n, bool)
    while len(first):
        waiting = np.zeros(n, bool)
        waiting[second] = True
        dead[second[~waiting[first]]] = True
        open_ = ~(dead[first] | dead[second])
        first, second = first[open_], second[open_]
    return dead


def _first_match(boxes: np.ndarray, groups: np.ndarray, metric: str, threshold: float) -> np.ndarray:
    """(N,) the first of the boxes before each that matches it, itself where none does."""
    claimer = np.arange(len(boxes))
    for a, b in matching_pairs(boxes, groups, metric, threshold):
        np.minimum.at(claimer, b, a)
    return claimer


def _roots(claimer: np.ndarray) -> np.ndarray:
    """(N,) where the chain of claimers of each ends."""
    while True:
        further = claimer[claimer]
        if (further == claimer).all():
            return claimer
        claimer = further


def _grow(boxes: np.ndarray, scores: np.ndarray, keeper: np.ndarray, member: np.ndarray, metric: str,
          threshold: float) -> None:
    """Merge members (of each keeper, in order) into their keepers, in place.

    One member at a time, since a box may have grown too large, or large enough, for the next.
    """
    corners, best, iou = boxes.tolist(), scores.tolist(), metric == "iou"
    for m, k in zip(member.tolist(), keeper[member].tolist(), strict=True):
        x1, y1, x2, y2 = corners[k]
        left, top, right, bottom = corners[m]
        inner = max(min(x2, right) - max(x1, left), 0.0) * max(min(y2, bottom) - max(y1, top), 0.0)
        own, other = (x2 - x1) * (y2 - y1), (right - left) * (bottom - top)
        whole = own + other - inner if iou else min(own, other)
        if inner > 0 and inner / whole >= threshold:
            corners[k] = [min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)]
            best[k] = max(best[k], best[m])
    boxes[:], scores[:] = np.reshape(corners, (-1, 4)), best
