"""Differences between arms with intervals: a bootstrap over images and seeds together, both in pairs.

Every run is evaluated on the same images, and a seed gives every arm the same samples in the same order. Drawn with
replacement are images, the same for all runs, and seeds, the same for both arms (Owen 2007, "The pigeonhole
bootstrap", section 3, of the differences). Few seeds drawn with replacement vary too little: the deviation that comes
from them is widened by sqrt(n / (n - 1)) and by the quantile of Student's t with n - 1 degrees of freedom over the
normal one (Hesterberg 2015, section 5.1, "expanded percentile intervals").

Legend: n seeds that both arms have, B resamples, S numbers of a protocol.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.stats import norm, t

from engine.evaluation.comparison.bootstrap import LEVEL, TOO_FEW, Difference, draw_weights, interval, resampled
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


def widening(seeds: int) -> float:
    """By how much the deviation that comes from so many seeds is widened; 1 for a single one."""
    if seeds < 2:
        return 1.0
    tail = (1 + LEVEL / 100) / 2
    return math.sqrt(seeds / (seeds - 1)) * float(t.ppf(tail, seeds - 1) / norm.ppf(tail))


def difference(first: np.ndarray, other: np.ndarray, seed: int = 0) -> list[Difference]:
    """For each number the mean of an arm minus that of the first, with its interval.

    first, other (n, 1 + B, S): `numbers_of` the same seeds in the same order. NaN where a number is not defined.
    """
    gains = other - first
    n, columns, _ = gains.shape
    centre = gains[:, 1:].mean(0)
    chosen = np.random.default_rng(seed).integers(0, n, (n, columns - 1))
    draws = centre + widening(n) * (gains[chosen, np.arange(1, columns)].mean(0) - centre)  # (B, S)
    return [Difference(float(value), *interval(column))
            for value, column in zip(gains[:, 0].mean(0), draws.T, strict=True)]


def verdict(gain: Difference, seeds: int) -> str:
    """What may be said of a difference; seeds: how many both arms have."""
    if seeds < 2:
        return ONE_SEED
    if not math.isfinite(gain.low):
        return TOO_FEW
    if gain.is_clear:
        return "better" if gain.low > 0 else "worse"
    return f"not told apart with {seeds} seeds"
