"""Differences between arms with intervals: a bootstrap over images and seeds together.

Every seed of every arm is evaluated on the same images, so the two are crossed: images are drawn with replacement, the
same for all runs, and beside them the seeds of each arm (Owen 2007, "The pigeonhole bootstrap", section 3). Few seeds
drawn with replacement vary too little: the deviation that comes from seeds is widened by sqrt(n / (n - 1)) and by the
quantile of Student's t over the normal one (Hesterberg 2015, section 5.1, "expanded percentile intervals").

Legend: n seeds of an arm, B resamples, S numbers of a protocol.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import norm, t

from engine.evaluation.comparison.bootstrap import LEVEL, Difference, draw_weights, resampled
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.protocol import Protocol
from utils.truth import Truth

ONE_SEED = "one seed: no statement"


def precisions(protocol: Protocol) -> Protocol:
    """The protocol with its average precisions alone."""
    return replace(protocol, stats=tuple(stat for stat in protocol.stats if stat.kind == "AP"))


def numbers_of(truth: Truth, found: Found, protocol: Protocol, resamples: int, seed: int = 0) -> np.ndarray:
    """(1 + B, S) the numbers of one run: on all images, then on resamples that are the same for every run."""
    n = len(truth.image_ids)
    weights = np.concatenate((np.ones((1, n), np.float32), draw_weights(n, resamples, seed)))
    return resampled(protocol.truth(truth), found, protocol, weights)


def widening(own: int, other: int) -> float:
    """By how much the deviation of an arm of `own` seeds is widened beside one of `other`; 1 for a single seed."""
    if own < 2:
        return 1.0
    tail = (1 + LEVEL / 100) / 2
    return math.sqrt(own / (own - 1)) * float(t.ppf(tail, own + other - 2) / norm.ppf(tail))


def difference(first: np.ndarray, other: np.ndarray, seed: int = 0) -> list[Difference]:
    """For each number the mean of an arm minus that of the first, with its interval.

    first (n, 1 + B, S), other (m, 1 + B, S): `numbers_of` each seed. NaN where a number is not defined.
    """
    random = np.random.default_rng(seed)
    draws = (_drawn(other, widening(len(other), len(first)), random)
             - _drawn(first, widening(len(first), len(other)), random))  # (B, S)
    values = other[:, 0].mean(0) - first[:, 0].mean(0)
    found = []
    for value, column in zip(values, draws.T, strict=True):
        defined = column[np.isfinite(column)]
        tail = (100 - LEVEL) / 2
        low, high = np.percentile(defined, (tail, 100 - tail)) if len(defined) else (np.nan, np.nan)
        found.append(Difference(float(value), float(low), float(high)))
    return found


def _drawn(runs: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    """(B, S) the mean of seeds drawn with replacement for each resample of images, its deviation from the mean of all
    seeds times `factor`."""
    n, columns, _ = runs.shape
    centre = runs[:, 1:].mean(0)
    chosen = random.integers(0, n, (n, columns - 1))
    drawn = runs[chosen, np.arange(1, columns)].mean(0)
    return centre + factor * (drawn - centre)


def verdict(gain: Difference, seeds: Sequence[int]) -> str:
    """What may be said of a difference; seeds: how many the two arms have."""
    if min(seeds) < 2:
        return ONE_SEED
    if not math.isfinite(gain.low):
        return "not defined"
    if gain.is_clear:
        return "better" if gain.low > 0 else "worse"
    return f"not told apart with {' and '.join(map(str, dict.fromkeys(seeds)))} seeds"
