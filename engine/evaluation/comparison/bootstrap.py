"""Paired bootstrap over images: how far the numbers of two results would differ on other images of the same kind.

Images are drawn with replacement, the same for all results (Efron and Tibshirani 1993, sections 6.4 and 13.3; paired as
in Koehn 2004, section 4). A detection's outcome depends on its own image alone, so matching is done once, and a
resample is a weight per image: AP is computed from cumulative sums of weights.

Legend: B resamples, n images, K classes, A area ranges, T IoU thresholds, N right detections of a class at any
threshold, S numbers of the protocol.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from engine.evaluation.metrics.engine import RECALLS, ranks
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Outcomes, outcomes_of
from engine.evaluation.metrics.protocol import Protocol
from utils.cli import cores
from utils.truth import Truth

RESAMPLES = 1000
LEVEL = 95  # per cent
TOO_FEW = "too few images with such objects for an interval"
BLOCK = 128  # resamples that are worked on at a time, so that arrays fit into a core's cache
# Per cent of recall at which each of the 101 is reached: some, such as 0.35, lie above k / 100 in double precision.
LIMITS = np.arange(101, dtype=np.float32)
LIMITS = np.where(np.arange(101) / 100 < RECALLS, np.nextafter(LIMITS, np.float32(200)), LIMITS)


@dataclass(frozen=True)
class Difference:
    """A number of one results file minus that of another; low, high: the 95 % interval. NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0


def draw_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(B, n) float32: how often each resample has each image."""
    random = np.random.default_rng(seed)
    return np.stack([np.bincount(random.integers(0, n, n), minlength=n) for _ in range(resamples)]).astype(np.float32)


def differences_to_first(truth: Truth, founds: Sequence[Found], protocol: Protocol, resamples: int = RESAMPLES,
                         seed: int = 0) -> list[dict[str, Difference]]:
    """For each results file but the first, each number minus that of the first. protocol: of rule "coco".

    The numbers are those of images drawn with replacement, percentiles of B differences; classes without an object in
    a resample are not in its means.
    """
    n = len(truth.image_ids)
    weights = np.concatenate((np.ones((1, n), np.float32), draw_weights(n, resamples, seed)))
    first, *others = (resampled(truth, found, protocol, weights) for found in founds)
    told = []
    for other in others:
        difference = other - first  # (1 + B, S)
        row = {}
        for name, column in zip(protocol.names, difference.T, strict=True):
            row[name] = Difference(float(column[0]), *interval(column[1:]))
        told.append(row)
    return told


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Percentiles of B numbers. NaN where more of these are NaN than lie beyond one end: then few images hold an object
    that counts, and say nothing of others."""
    tail = (100 - LEVEL) / 2
    defined = draws[np.isfinite(draws)]
    if len(defined) < (1 - tail / 100) * len(draws) or not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, (tail, 100 - tail))
    return float(low), float(high)


def resampled(truth: Truth, found: Found, protocol: Protocol, weights: np.ndarray) -> np.ndarray:
    """(B, S) the protocol's numbers where image i counts weights[b, i] times; NaN where no object is left.

    weights (B, n) float32, whole numbers. Detections of equal score keep the order of COCOeval, copies of an image
    stand next to each other. Correct to 1e-6: precision is computed in single precision.
    """
    outcomes = outcomes_of(truth, found, protocol)
    areas = list(protocol.areas)
    keys = [(stat.kind, areas.index(stat.area), stat.max_det) for stat in protocol.stats]
    order = np.lexsort((outcomes.rank, ranks(truth.image_ids)[outcomes.found.images], -outcomes.found.scores,
                        outcomes.found.labels))
    edges = np.searchsorted(outcomes.found.labels[order], np.arange(len(truth.category_ids) + 1))
    tasks = []  # (objects of each image (n,), area, [(key, what to add)])
    for k in range(len(truth.category_ids)):
        rows, own = order[edges[k]:edges[k + 1]], truth.label == k
        for a in {a for _, a, _ in keys}:
            counts = np.bincount(truth.image[outcomes.objects[a] & own], minlength=weights.shape[1]).astype(np.float32)
            if counts.any():
                tasks.append((counts, a, [(key, _KINDS[key[0]](outcomes, rows[outcomes.rank[rows] < key[2]], a))
                                          for key in dict.fromkeys(keys) if key[1] == a]))

    def means(weight: np.ndarray) -> np.ndarray:
        turned, shape = np.ascontiguousarray(weight.T), (len(protocol.ious), len(weight))
        totals, defined = {key: np.zeros(shape, np.float32) for key in keys}, np.zeros((len(areas), len(weight)))
        for counts, a, parts in tasks:
            positives = weight @ counts  # (B,)
            defined[a] += positives > 0
            for key, part in parts:
                part.add(totals[key], weight, turned, np.maximum(positives, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = [totals[key] / defined[key[1]] for key in keys]
        return np.stack([row.mean(0) if stat.iou is None else row[protocol.ious.index(stat.iou)]
                         for row, stat in zip(rows, protocol.stats, strict=True)], 1)

    with ThreadPoolExecutor(cores()) as pool:  # NumPy computes outside of Python's lock
        return np.concatenate([*pool.map(means, (weights[at:at + BLOCK] for at in range(0, len(weights), BLOCK)))])


class _Recall:
    """Recall of a class in an area range. right (T, n): right detections of each image."""

    def __init__(self, outcomes: Outcomes, rows: np.ndarray, area: int) -> None:
        t, at = np.nonzero(outcomes.state[area][:, rows] == 1)
        n = len(outcomes.found.seen)
        pairs = t * n + outcomes.found.images[rows[at]]
        self.right = _sparse(np.ones(len(pairs), np.float32), pairs, (len(outcomes.state[area]), n))

    def add(self, total: np.ndarray, weight: np.ndarray, turned: np.ndarray, positives: np.ndarray) -> None:
        """Add to `total` (T, B). weight (B, n), turned (n, B): the resamples; positives (B,): objects, 1 for none."""
        total += (self.right @ turned) / positives


class _Precision:
    """Average precision of a class in an area range, from its detections in falling order of score.

    knots: positions of the detections that are right at any threshold; gaps (N, n): of each image, detections of the
    range's sizes behind the knot before and up to each knot; thresholds: per threshold the knots that are right, the
    images of detections that count though `gaps` leaves them out (+1) or the other way round (-1), these signs, and how
    many of them lie before each right knot.
    """

    def __init__(self, outcomes: Outcomes, rows: np.ndarray, area: int) -> None:
        state, images = outcomes.state[area][:, rows], outcomes.found.images[rows]
        inside, n = outcomes.inside[area, rows], len(outcomes.found.seen)
        self.knots = np.flatnonzero((state == 1).any(0))
        self.images = images[self.knots]
        segment = np.searchsorted(self.knots, np.arange(len(rows)))
        at = np.flatnonzero(inside[:self.knots[-1] + 1]) if len(self.knots) else self.knots
        self.gaps = _sparse(np.ones(len(at), np.float32), segment[at] * n + images[at], (len(self.knots), n))
        self.thresholds = []
        for row in state:
            right = np.flatnonzero(row[self.knots] == 1)
            change = (row >= 0).astype(np.float32) - inside
            odd = np.flatnonzero(change[:self.knots[right[-1]] + 1]) if len(right) else right
            self.thresholds.append((right, images[odd], change[odd], np.searchsorted(odd, self.knots[right], "right")))

    def add(self, total: np.ndarray, weight: np.ndarray, turned: np.ndarray, positives: np.ndarray) -> None:
        """As of `_Recall`."""
        base = np.ascontiguousarray((self.gaps @ turned).T)
        np.cumsum(base, 1, out=base)
        for t, (right, odd, change, before) in enumerate(self.thresholds):
            if not len(right):
                continue
            hits = weight.take(self.images[right], 1)
            np.cumsum(hits, 1, out=hits)
            seen = base.take(right, 1)
            if len(odd):
                more = np.zeros((len(weight), len(odd) + 1), np.float32)
                np.cumsum(weight.take(odd, 1) * change, 1, out=more[:, 1:])
                seen += more.take(before, 1)
            total[t] += average_precision(hits, seen, positives)


_KINDS = {"AP": _Precision, "AR": _Recall}


def _sparse(values: np.ndarray, places: np.ndarray, shape: tuple[int, int]):
    """A sparse matrix of `values` at flat `places` of `shape`; those of one place are added."""
    from scipy.sparse import csr_array

    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-1))
    sums = np.add.reduceat(values[order], starts) if len(starts) else values
    row, column = np.divmod(places[order][starts], shape[1])
    return csr_array((sums, column, np.searchsorted(row, np.arange(shape[0] + 1))), shape=shape)


def average_precision(hits: np.ndarray, seen: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """(B,) COCO's AP from what is known at the right detections of a class alone, in falling order of score.

    hits, seen (B, N) float32, overwritten: right and counted detections so far; positives (B,): objects. The highest
    precision from a recall on is always reached at a right detection, so the mean over the 101 recalls is a sum over
    them, each with the number of recalls that it is the first to reach.
    """
    np.maximum(seen, 1, out=seen)
    precision = np.divide(hits, seen, out=seen)
    highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    hits *= 100
    hits /= positives[:, None].astype(np.float32)
    reached = hits.astype(np.int32)
    reached -= hits < LIMITS.take(reached)
    first = np.empty_like(hits)
    first[:, 0] = reached[:, 0] + 1
    np.subtract(reached[:, 1:], reached[:, :-1], out=first[:, 1:], casting="unsafe")
    return np.einsum("bn,bn->b", highest, first) / len(RECALLS)
