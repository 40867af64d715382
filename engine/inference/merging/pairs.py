"""Pairs of boxes that overlap enough, without looking at all pairs of a crowded image.

Boxes are sorted into horizontal strips about as high as they are, and along a strip by their left side: whatever
overlaps a box shares a strip with it and begins within its width. Boxes of other sizes have strips of their own, a
power of two in pixels, so that a box lies in two strips at most.

Legend: N boxes, E entries of boxes in strips, P candidate pairs.
"""

from collections.abc import Iterator

import numpy as np

METRICS = ("iou", "ios")
CHUNK = 1 << 17  # candidate pairs looked at together: the arrays of so many stay in the CPU's caches
SLACK = 1e-3  # pixels by which ranges are widened, far more than keys are rounded

Pairs = tuple[np.ndarray, np.ndarray]


def matching_pairs(boxes: np.ndarray, groups: np.ndarray, metric: str, threshold: float) -> Iterator[Pairs]:
    """All pairs i < j of boxes of one group whose overlap is at least `threshold`, in chunks (i, j).

    boxes (N, 4) float64 xyxy pixels; groups (N,) int. metric: "iou", intersection over union, or "ios", intersection
    over the smaller of the two areas. Boxes that do not overlap are no pair, whatever the threshold.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if len(boxes) < 2:
        return
    heights = boxes[:, 3] - boxes[:, 1]
    floor = max(float(np.median(heights)), 1.0)
    levels = np.ceil(np.log2(np.maximum(heights, floor))).astype(np.int64)
    lowest = np.log2(threshold) - 1 if metric == "iou" and threshold > 0 else -np.inf  # IoU <= the ratio of heights
    scene = _Scene(boxes, groups, metric, threshold)
    for level in np.unique(levels).tolist():
        own = scene.strips(np.flatnonzero(levels == level), 2.0 ** level)
        yield from scene.among(own)
        smaller = np.flatnonzero((levels < level) & (levels >= level + lowest))
        if len(smaller):
            yield from scene.between(own, scene.strips(smaller, 2.0 ** level))


class _Strips:
    """Entries sorted by key: rows (E,) of boxes, strip (E,) numbers, key (E,) = lane * span + left side."""

    def __init__(self, rows: np.ndarray, strip: np.ndarray, key: np.ndarray) -> None:
        order = np.argsort(key)
        self.rows, self.strip, self.key = rows[order], strip[order], key[order]


class _Scene:
    """The boxes of one call; `reach`: how far from the left side of a box that of a match can lie to its right."""

    def __init__(self, boxes: np.ndarray, groups: np.ndarray, metric: str, threshold: float) -> None:
        self.metric, self.threshold = metric, threshold
        self.x1, self.y1, self.x2, self.y2 = (np.ascontiguousarray(side) for side in boxes.T)
        self.areas = (self.x2 - self.x1) * (self.y2 - self.y1)
        self.groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
        # IoU >= t takes an intersection as wide as t times the wider of the two.
        self.reach = (self.x2 - self.x1) * (1 - threshold if metric == "iou" else 1.0) + SLACK
        self.left, self.span = float(self.x1.min()), float(self.x2.max() - self.x1.min()) + 1.0

    def strips(self, rows: np.ndarray, height: float) -> _Strips:
        """The entries of some boxes in strips of `height` pixels, each in one or two."""
        base = np.floor(self.y1.min() / height)
        first, last = (np.floor(y[rows] / height) - base for y in (self.y1, self.y2))
        both = np.flatnonzero(last > first)
        rows, strip = np.concatenate((rows, rows[both])), np.concatenate((first, first[both] + 1))
        lane = self.groups[rows] * (np.floor(self.y2.max() / height) - base + 1) + strip
        self.first = np.floor(self.y1 / height) - base  # the strip where a box begins, at this height
        return _Strips(rows, strip, lane * self.span + (self.x1[rows] - self.left))

    def among(self, own: _Strips) -> Iterator[Pairs]:
        """Matches among the boxes of one level."""
        end = np.searchsorted(own.key, own.key + self.reach[own.rows], "right")
        yield from self._matches(own, own, np.arange(1, len(own.key) + 1), end)

    def between(self, own: _Strips, smaller: _Strips) -> Iterator[Pairs]:
        """Matches of boxes of one level with those of lower ones: of each pair the left one is looked from."""
        for left, right, side in ((own, smaller, "left"), (smaller, own, "right")):
            start = np.searchsorted(right.key, left.key, side)
            end = np.searchsorted(right.key, left.key + self.reach[left.rows], "right")
            yield from self._matches(left, right, start, np.maximum(start, end))

    def _matches(self, left: _Strips, right: _Strips, start: np.ndarray, end: np.ndarray) -> Iterator[Pairs]:
        """Matches of each entry of `left` with those of `right` from `start` to `end`."""
        total = np.cumsum(end - start)
        k = 0
        while k < len(total):
            before = total[k - 1] if k else 0
            stop = max(int(np.searchsorted(total, before + CHUNK, "right")), k + 1)
            counts = (end - start)[k:stop]
            entry = np.repeat(np.arange(k, stop), counts)
            other = np.arange(len(entry)) + np.repeat(start[k:stop] - np.cumsum(counts) + counts, counts)
            yield self._tested(left.rows[entry], right.rows[other], left.strip[entry])
            k = stop

    def _tested(self, a: np.ndarray, b: np.ndarray, strip: np.ndarray) -> Pairs:
        """Candidates (P,) that match, once: pairs in two strips count in that where their intersection begins."""
        high = np.minimum(self.y2[a], self.y2[b]) - np.maximum(self.y1[a], self.y1[b])
        keep = np.flatnonzero(high > 0)
        a, b, high, strip = a[keep], b[keep], high[keep], strip[keep]
        keep = np.flatnonzero(np.maximum(self.first[a], self.first[b]) == strip)
        a, b, high = a[keep], b[keep], high[keep]
        wide = np.minimum(self.x2[a], self.x2[b]) - np.maximum(self.x1[a], self.x1[b])
        inner = np.maximum(wide, 0) * high
        own, other = self.areas[a], self.areas[b]
        whole = own + other - inner if self.metric == "iou" else np.minimum(own, other)
        with np.errstate(divide="ignore", invalid="ignore"):
            match = (inner > 0) & (inner / whole >= self.threshold)
        a, b = a[match], b[match]
        return np.minimum(a, b), np.maximum(a, b)
