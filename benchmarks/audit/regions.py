"""Which pixels of a map belong to which object, and how well a map tells an object from the background of its image.

Legend: h, w pixels of the map, N objects of an image, K objects of which something is known.
"""

from dataclasses import dataclass

import numpy as np

from engine.evaluation.comparison.bootstrap import LEVEL, RESAMPLES, draw_weights
from utils.structures import Letterbox

BACKGROUND, OUTSIDE = -1, -2
LEAST_IMAGES = 5  # for an interval


def owners(boxes: np.ndarray, ignore: np.ndarray, shape: tuple[int, int], placed: Letterbox) -> np.ndarray:
    """(h, w) int64: the object of each pixel, its row of `boxes`, or `BACKGROUND`; `OUTSIDE` beside the image (`placed`
    in its frame) and inside crowd regions.

    boxes (N, 4) xyxy px of the frame; ignore (N,) bool. A pixel belongs to the smallest object that its centre lies in;
    the pixel that an object's centre lies in is its own too, so that no object is without one, unless others cover it.
    """
    (height, width), (rows, columns) = placed.input, shape
    steps = np.array([width / columns, height / rows] * 2)
    left, top = placed.pad
    content = np.array([left, top, left + placed.content[1], top + placed.content[0]]) / steps
    found = np.full(shape, OUTSIDE, np.int64)
    found[_inside(content)] = BACKGROUND
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for row in np.lexsort((-areas, ~ignore)):  # crowds first, then from the largest to the smallest
        box = boxes[row] / steps
        if ignore[row]:
            found[_inside(box)] = OUTSIDE
            continue
        found[_inside(box)] = row
        x, y = np.clip(((box[:2] + box[2:]) / 2).astype(np.int64), 0, (columns - 1, rows - 1))
        found[y, x] = row
    return found


def _inside(box: np.ndarray) -> tuple[slice, slice]:
    """The pixels whose centres lie in a box (4,) xyxy in units of pixels."""
    x1, y1, x2, y2 = np.ceil(box - 0.5).clip(0).astype(np.int64)
    return slice(y1, y2), slice(x1, x2)


def object_aucs(values: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects (K,) that have a pixel, and of each the probability that one of its pixels has a higher value than one of
    the background (ties count half): the area under the ROC curve of `values` (h, w) between the two. Empty where there
    is no background. owner: of `owners`.
    """
    background = np.sort(values[owner == BACKGROUND])
    inside = owner >= 0
    if not len(background) or not inside.any():
        return np.zeros(0, np.int64), np.zeros(0)
    below, upto = (np.searchsorted(background, values[inside], side) for side in ("left", "right"))
    rows, place, counts = np.unique(owner[inside], return_inverse=True, return_counts=True)
    return rows, np.bincount(place, (below + upto) / 2 / len(background)) / counts


@dataclass(frozen=True)
class Mean:
    """A mean over objects with its 95 % interval, by a bootstrap over their images; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def text(self) -> str:
        """Such as "0.52 [0.49, 0.55]"."""
        if self.value is None:
            return "-"
        return f"{self.value:.2f}" + ("" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]")


def mean_over_images(values: np.ndarray, images: np.ndarray, seed: int) -> Mean:
    """The mean of values (K,), NaN where undefined, of objects in images (K,). Images are drawn with replacement (Efron
    and Tibshirani 1993, section 13.3), since the objects of one are not independent; fewer than `LEAST_IMAGES` give no
    interval."""
    known = np.isfinite(values)
    if not known.any():
        return Mean(None)
    _, place = np.unique(images[known], return_inverse=True)
    sums, counts = np.bincount(place, values[known]), np.bincount(place)
    value = float(sums.sum() / counts.sum())
    if len(counts) < LEAST_IMAGES:
        return Mean(value)
    weights = draw_weights(len(counts), RESAMPLES, seed).astype(np.float64)
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(weights @ sums / (weights @ counts), (tail, 100 - tail))
    return Mean(value, float(low), float(high))
