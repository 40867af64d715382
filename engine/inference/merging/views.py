"""One set of boxes out of those that several views of an image found: its windows, or all of it too.

What suppression within a view left is merged across views by one of `METHODS`, after parts of objects were dropped that
another window shows whole.

Legend: N boxes of one image, T windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.inference.merging.fusion import wbf
from engine.inference.merging.pairs import matching_pairs
from engine.inference.merging.suppress import Merged, nmm, nms
from utils.structures import Detections

WHOLE = -1  # the number of the view that shows the whole image
NEAR = 0.01  # of a window's side: a box that ends so close to an inner border goes on behind it
SAME = 0.5  # overlap of two boxes, over the smaller one, that are taken for one object
LEAST_PART = 0.3  # score of a part, as a share of that of the part it is put together with
LARGE = 0.8  # of a window's side: longer objects are parts in most windows
COUNTED = 0.25  # score of a duplicate that is counted, the one from which detect.py shows boxes


@dataclass(frozen=True)
class Boxes:
    """boxes (N, 4) float64 xyxy pixels of the image, scores (N,) float64, labels (N,) int64; view (N,) int64, the
    number of the view that found each; cut (N,) bool, whether it ends at a border of its window inside the image and
    may be a part of an object."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    view: np.ndarray
    cut: np.ndarray

    @classmethod
    def of_views(cls, found: Sequence[Detections], windows: np.ndarray, size: tuple[int, int],
                 full: Detections | None = None) -> "Boxes":
        """From detections in the frames of windows (T, 4) of an image of `size` (height, width), and of all of it."""
        parts = []
        inner = inner_borders(windows, size)
        for number, (detections, window) in enumerate(zip(found, windows, strict=True)):
            boxes = detections.boxes.double().numpy() + np.tile(window[:2], 2)
            near = NEAR * (window[2:] - window[:2]).min()
            cut = ((np.abs(boxes - window) <= near) & inner[number]).any(1)
            parts.append((boxes, detections, number, cut))
        if full is not None:
            parts.append((full.boxes.double().numpy(), full, WHOLE, np.zeros(len(full), bool)))
        return cls(*(np.concatenate(column) for column in zip(
            (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)),
            *((boxes, detections.scores.double().numpy(), detections.labels.numpy(), np.full(len(boxes), number), cut)
              for boxes, detections, number, cut in parts), strict=True)))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray) -> "Boxes":
        """Some of the boxes."""
        return Boxes(self.boxes[rows], self.scores[rows], self.labels[rows], self.view[rows], self.cut[rows])

    def duplicates(self) -> int:
        """How many boxes that score `COUNTED` or more are of an object that another view found with a higher score:
        the overlap with a box of the same class is `SAME` or more, over the smaller of the two."""
        shown = self[np.flatnonzero(self.scores >= COUNTED)]
        shown = shown[np.argsort(-shown.scores, kind="stable")]
        again = np.zeros(len(shown), bool)
        for first, second in matching_pairs(shown.boxes, shown.labels, "ios", SAME):
            again[second[shown.view[first] != shown.view[second]]] = True
        return int(again.sum())

    def detections(self, limit: int | None = None) -> Detections:
        """The best `limit` as `Detections` of the image, float32."""
        order = np.argsort(-self.scores, kind="stable")[:limit]
        return Detections(torch.from_numpy(self.boxes[order]).float(), torch.from_numpy(self.scores[order]).float(),
                          torch.from_numpy(self.labels[order]))


def inner_borders(windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(T, 4) bool: which of the left, top, right and bottom borders of windows lie inside an image of `size`."""
    height, width = size
    return np.concatenate((windows[:, :2] > 0, windows[:, 2:] < (width, height)), 1)


def shown_whole(found: Boxes, windows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool: boxes that are cut at a border of their window, and lie in another window without touching one.

    Such a box is a part of an object, or what the network makes of it, and the other window shows all of it.
    """
    near = NEAR * (windows[:, 2:] - windows[:, :2]).min(1, keepdims=True)
    margin = np.where(inner_borders(windows, size), near, -np.inf)
    low, high = windows[:, :2] + margin[:, :2], windows[:, 2:] - margin[:, 2:]
    whole = np.zeros(len(found), bool)
    rows = np.flatnonzero(found.cut)
    boxes = found.boxes[rows]
    for number in range(len(windows)):
        inside = (boxes[:, :2] > low[number]).all(1) & (boxes[:, 2:] < high[number]).all(1)
        whole[rows[inside & (found.view[rows] != number)]] = True
    return whole


def shown_large(found: Boxes, windows: np.ndarray) -> np.ndarray:
    """(N,) bool: boxes that are cut at a border of their window, and of which `SAME` lies in a box of the whole image
    that is too large for windows, as sure as they are but for a factor of `LEAST_PART`."""
    large = LARGE * (windows[:, 2:] - windows[:, :2]).max(initial=0)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    whole = (found.view == WHOLE) & (sides.max(1, initial=0) > large)
    parts = np.zeros(len(found), bool)
    rows = np.flatnonzero(found.cut | whole)
    for pair in matching_pairs(found.boxes[rows], found.labels[rows], "ios", SAME):
        for part, other in (pair, pair[::-1]):
            part, other = rows[part], rows[other]
            yields = (found.cut[part] & whole[other] & (sides[part].prod(1) <= sides[other].prod(1))
                      & (found.scores[other] >= LEAST_PART * found.scores[part]))
            parts[part[yields]] = True
    return parts


def merge_views(found: Boxes, windows: np.ndarray, size: tuple[int, int], method: str,
                agnostic: bool = False) -> Boxes:
    """What the views of an image of `size` (height, width) found, by a method of `METHODS`, best first.

    windows (T, 4): of the views 0 to T - 1. Parts that another window shows whole (`shown_whole`) are dropped before,
    and those of objects too large for windows that the whole image shows (`shown_large`). agnostic: boxes of different
    classes are merged too, and the best of them says which class it is.
    """
    left = found[np.flatnonzero(~(shown_whole(found, windows, size) | shown_large(found, windows)))]
    merged = METHODS[method](replace(left, labels=np.zeros_like(left.labels)) if agnostic else left)
    return replace(left[merged.source], boxes=merged.boxes, scores=merged.scores)


def suppressed(found: Boxes) -> Merged:
    """NMS at IoU 0.5."""
    keep = nms(found.boxes, found.scores, found.labels, "iou", 0.5)
    return Merged(found.boxes[keep], found.scores[keep], found.labels[keep], keep)


def put_together(found: Boxes) -> Merged:
    """Greedy NMM at `SAME` over the smaller box, where a box grows by parts alone: both are cut at borders of different
    windows, and the other scores `LEAST_PART` of it or more.

    Without that condition, which SAHI's GREEDYNMM does not have, boxes grow by everything they claim, and at scores
    down to 0.001 that is far more than their object.
    """
    def parts(claimed: np.ndarray, claiming: np.ndarray) -> np.ndarray:
        return (found.cut[claimed] & found.cut[claiming] & (found.view[claimed] != found.view[claiming])
                & (found.scores[claimed] >= LEAST_PART * found.scores[claiming]))

    return nmm(found.boxes, found.scores, found.labels, "ios", SAME, joins=parts)


def fused(found: Boxes) -> Merged:
    """Weighted boxes fusion at IoU 0.55 with the highest score of a cluster: that few windows show an object says
    nothing about it."""
    return wbf(found.boxes, found.scores, found.labels, confidence="max")


METHODS: dict[str, Callable[[Boxes], Merged]] = {"nms": suppressed, "nmm": put_together, "wbf": fused}
