"""One set of boxes out of those that several models found in one image, in its frame."""

from collections.abc import Callable, Sequence

import numpy as np

from engine.inference.merging.fusion import wbf
from engine.inference.merging.suppress import Merged, nms

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (N, 4) xyxy, scores (N,), labels (N,)


def merge_models(found: Sequence[Columns], method: str, agnostic: bool = False) -> Merged:
    """What several models found in one image, by a method of `METHODS`, best first. Labels mean the same in all.

    agnostic: boxes of different classes are merged too, and the best of them says which class it is.
    """
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
    boxes, scores, labels = map(np.concatenate, zip(empty, *found, strict=True))
    model = np.repeat(np.arange(len(found)), [len(column[1]) for column in found])
    merged = METHODS[method](boxes, scores, np.zeros_like(labels) if agnostic else labels, model, len(found))
    return merged._replace(labels=labels[merged.source])


def suppressed(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, model: np.ndarray, models: int) -> Merged:
    """NMS at IoU 0.5."""
    keep = nms(boxes, scores, labels, "iou", 0.5)
    return Merged(boxes[keep], scores[keep], labels[keep], keep)


def fused(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, model: np.ndarray, models: int) -> Merged:
    """Weighted boxes fusion at IoU 0.55; a score is the mean of what each model gives at most."""
    return wbf(boxes, scores, labels, models, confidence="models", model=model)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], Merged]] = {
    "nms": suppressed, "wbf": fused}
