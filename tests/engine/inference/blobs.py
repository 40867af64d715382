"""A detector that needs no training: it finds the bright rectangles of a dark image exactly, by their pixels."""

from pathlib import Path

import cv2
import numpy as np
import torch

from engine.inference.metadata import ExportMetadata
from engine.inference.runtimes.base import Runtime
from utils.frame import Frame
from utils.select import SelectConfig

NAMES = ("red", "green", "blue")
THRESHOLDS = SelectConfig(0.001, 0.65, 300)


class BlobRuntime(Runtime):
    """Each rectangle is a box of the class of its colour; the larger it is in the frame, the higher its score."""

    def __init__(self, frame: Frame = Frame(), select: str = "nms", names: tuple[str, ...] = NAMES) -> None:  # noqa: B008
        metadata = ExportMetadata(names, (8, 16, 32), frame.size, None, False, select=select, thresholds=THRESHOLDS,
                                  frame=frame)
        super().__init__(Path("blobs.pt"), metadata, torch.device("cpu"))
        self.batches: list[tuple[int, ...]] = []

    def _predict(self, images, content=None):
        self.batches.append(tuple(images.shape))
        found = [self._blobs(image.permute(1, 2, 0).numpy()) for image in images]
        most = max(map(len, found))
        boxes, scores = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, 3)
        for k, blobs in enumerate(found):
            for n, (x, y, width, height, label) in enumerate(blobs):
                boxes[k, n] = torch.tensor((x, y, x + width, y + height))
                scores[k, n, label] = 0.3 + min(width * height, 5000) / 10000
        return boxes, scores

    @staticmethod
    def _blobs(image: np.ndarray) -> list[tuple[int, ...]]:
        blobs = []
        for label in range(3):
            mask = (image[..., label] > 127).astype(np.uint8)
            stats = cv2.connectedComponentsWithStats(mask)[2][1:]
            blobs += [(*stat[:4].tolist(), label) for stat in stats]
        return blobs


def draw(size: tuple[int, int], objects: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """(H, W, 3) BGR black with rectangles (x1, y1, x2, y2, label)."""
    image = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2, label in objects:
        image[y1:y2, x1:x2, 2 - label] = 255
    return image
