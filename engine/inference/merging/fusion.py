"""Weighted boxes fusion (Solovyev, Wang, Gabruseva 2021, "Weighted boxes fusion: ensembling boxes from different object
detection models", Image and Vision Computing 107, section 3), with the rules of its published program.

The order of boxes matters, as each joins a cluster whose mean has moved with the ones before; what makes it fast is
that only clusters nearby are compared: a box with an IoU above t has a centre and sides near those of the other.
"""

import math

import numpy as np

from engine.inference.merging.suppress import Merged, best_first, checked

CONFIDENCES = ("avg", "max", "models")
LEAST = 0.05  # threshold below which all clusters are compared


def wbf(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, models: int = 1, threshold: float = 0.55,
        confidence: str = "avg", model: np.ndarray | None = None) -> Merged:
    """Boxes of several models fused: the mean of each cluster, weighted by scores.

    boxes (N, 4) xyxy in any unit, scores (N,), labels (N,) int, of all models together. Best first, a box joins the
    cluster of its class whose mean box has the highest IoU with it, if that is above `threshold`; otherwise it begins
    one. confidence: "avg", the mean score times min(models, boxes of the cluster) / models, so that what few of the
    `models` saw counts less (one model: the plain mean); "max", the highest score; "models", the mean over models of
    the highest score that each gives the cluster, 0 where it has no box there (model (N,): the number of the model of
    each box), so that the unsure second boxes that a model's own suppression left do not count against its first. Boxes
    without area are left out. Raises `ValueError` for shapes that disagree, numbers that are not finite, less than one
    model.
    """
    boxes, scores, labels = checked(boxes, scores, labels)
    if models < 1 or confidence not in CONFIDENCES or (confidence == "models") != (model is not None):
        raise ValueError(f"{models} models and confidence {confidence!r}: expected 1 or more, and avg, max, or models "
                         "with the model of each box")
    order = best_first(boxes, scores)
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(1)]
    cluster = _cluster(boxes[order], scores[order], labels[order], threshold)
    count = int(cluster.max(initial=-1)) + 1
    size = np.bincount(cluster, minlength=count)
    total = np.bincount(cluster, scores[order], count)
    weight = np.where(total[cluster] > 0, scores[order] / np.where(total > 0, total, 1)[cluster], 1 / size[cluster])
    fused = np.stack([np.bincount(cluster, weight * side, count) for side in boxes[order].T], 1)
    first = np.full(count, len(order))
    np.minimum.at(first, cluster, np.arange(len(order)))
    source = order[first]
    if confidence == "models":
        best = np.zeros((count, models))
        np.maximum.at(best, (cluster, model[order]), scores[order])
        score = best.mean(1)
    else:
        score = scores[source] if confidence == "max" else total / size * np.minimum(models, size) / models
    rank = best_first(fused, score)
    return Merged(fused[rank], score[rank], labels[source][rank], source[rank])


def _cluster(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) the number of the cluster of each box, in order."""
    clusters = _Clusters(threshold)
    return np.fromiter(map(clusters.join, boxes.tolist(), scores.tolist(), labels.tolist()), np.int64, len(boxes))


class _Clusters:
    """Clusters by class, size and place: the cell of a mean's centre, cells as wide as a power of two of its width."""

    def __init__(self, threshold: float) -> None:
        self.threshold, least = threshold, max(threshold, LEAST)
        # IoU > t takes an intersection of more than t times the longer side along each axis, so that sides differ by
        # less than 1 / t, and centres are less than this many sides of either apart.
        self.reach = max(1 - least, (1 / least - 1) / 2)
        self.levels_apart = math.ceil(1e-9 - math.log2(least))
        self.means: list[list[float]] = []
        self.sums: list[list[float]] = []  # of score * side, and of scores
        self.keys: list[tuple[int, int, int, int]] = []
        self.cells: dict[tuple[int, int, int, int], list[int]] = {}
        self.levels: dict[int, set[int]] = {}  # of each class

    def join(self, box: list[float], score: float, label: int) -> int:
        """The number of the cluster that a box joins or begins."""
        best, found = self.threshold, -1
        x1, y1, x2, y2 = box
        area = (x2 - x1) * (y2 - y1)
        for number in self._near(box, label):
            left, top, right, bottom = self.means[number]
            wide = (x2 if x2 < right else right) - (x1 if x1 > left else left)
            high = (y2 if y2 < bottom else bottom) - (y1 if y1 > top else top)
            if wide > 0 and high > 0:
                inner = wide * high
                iou = inner / (area + (right - left) * (bottom - top) - inner)
                if iou > best or iou == best and number < found:
                    best, found = iou, number
        if found < 0:
            found = len(self.means)
            self.means.append(box)
            self.sums.append([side * score for side in box] + [score])
            self.keys.append(self._key(box, label))
            self.cells.setdefault(self.keys[-1], []).append(found)
            self.levels.setdefault(label, set()).add(self.keys[-1][1])
        else:
            self._add(found, box, score, label)
        return found

    def _add(self, number: int, box: list[float], score: float, label: int) -> None:
        sums = self.sums[number]
        for k in range(4):
            sums[k] += score * box[k]
        sums[4] += score
        if sums[4] > 0:
            self.means[number] = [side / sums[4] for side in sums[:4]]
        key = self._key(self.means[number], label)
        if key != self.keys[number]:
            self.cells[self.keys[number]].remove(number)
            self.keys[number] = key
            self.cells.setdefault(key, []).append(number)
            self.levels[label].add(key[1])

    @staticmethod
    def _key(box: list[float], label: int) -> tuple[int, int, int, int]:
        x1, y1, x2, y2 = box
        level = math.frexp(x2 - x1)[1]  # the width is at most 2 ** level
        cell = 2.0 ** level
        return label, level, int((x1 + x2) / 2 // cell), int((y1 + y2) / 2 // cell)

    def _near(self, box: list[float], label: int) -> list[int]:
        """Clusters whose mean may have an IoU above the threshold with a box."""
        if label not in self.levels:
            return []
        if self.threshold < LEAST:
            return [number for key, numbers in self.cells.items() if key[0] == label for number in numbers]
        x1, y1, x2, y2 = box
        own = math.frexp(x2 - x1)[1]
        x, y, dx, dy = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * self.reach, (y2 - y1) * self.reach
        near: list[int] = []
        apart = self.levels_apart
        for level in self.levels[label]:
            if -apart <= level - own <= apart:
                cell = 2.0 ** level
                rows = range(int((y - dy) // cell), int((y + dy) // cell) + 1)
                for column in range(int((x - dx) // cell), int((x + dx) // cell) + 1):
                    for row in rows:
                        near += self.cells.get((label, level, column, row), ())
        return near
