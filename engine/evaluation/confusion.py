"""Confusion matrix at fixed confidence and IoU thresholds."""

import numpy as np
import torch
from torch import Tensor

from utils.boxes import box_iou
from utils.structures import Detections


class ConfusionMatrix:
    """Counts of (predicted class, true class), as YOLO reports them.

    matrix (nc+1, nc+1) int64: rows predicted, columns true; the last row counts missed objects, the last column
    detections on background.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou: float = 0.45) -> None:
        self.nc, self.conf, self.iou = nc, conf, iou
        self.matrix = np.zeros((nc + 1, nc + 1), dtype=np.int64)

    def update(self, detections: Detections, boxes: Tensor, labels: Tensor, ignore: Tensor | None = None) -> None:
        """Add one image: its detections, and its objects (N, 4) xyxy and (N,) in the same frame.

        Each detection above `conf` is assigned to the object of highest IoU, and each object keeps the one of highest
        IoU above `iou`, whatever the classes. `ignore` (N,) bool marks crowds: they are no objects, and an unmatched
        detection with more than `iou` of its area inside one is not counted.
        """
        sure = detections.scores > self.conf
        found, predicted = detections.boxes[sure], detections.labels[sure].numpy()
        crowd = torch.zeros(len(labels), dtype=torch.bool) if ignore is None else ignore
        objects, true = boxes[~crowd], labels[~crowd].numpy()
        match = self._match(found, objects)  # (D,) object index or -1
        matched = match >= 0
        np.add.at(self.matrix, (predicted[matched], true[match[matched]]), 1)
        missed = np.setdiff1d(np.arange(len(true)), match)
        np.add.at(self.matrix, (self.nc, true[missed]), 1)
        false = predicted[~matched & ~self._inside(found, boxes[crowd])]
        np.add.at(self.matrix, (false, self.nc), 1)

    def _match(self, found: Tensor, objects: Tensor) -> np.ndarray:
        match = np.full(len(found), -1)
        if len(found) and len(objects):
            overlap, nearest = (t.numpy() for t in box_iou(found, objects).max(1))  # (D,)
            for i in np.argsort(-overlap, kind="stable"):
                if overlap[i] > self.iou and nearest[i] not in match:
                    match[i] = nearest[i]
        return match

    def _inside(self, found: Tensor, crowds: Tensor) -> np.ndarray:
        if not len(found) or not len(crowds):
            return np.zeros(len(found), dtype=bool)
        top_left = torch.maximum(found[:, None, :2], crowds[None, :, :2])
        bottom_right = torch.minimum(found[:, None, 2:], crowds[None, :, 2:])
        common = (bottom_right - top_left).clamp(min=0).prod(-1)  # (D, crowds)
        area = (found[:, 2:] - found[:, :2]).prod(-1).clamp(min=1e-9)
        return (common / area[:, None] > self.iou).any(1).numpy()
