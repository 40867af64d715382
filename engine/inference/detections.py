"""What was found in one image, with the image and the names of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from engine.inference.sources import Frame
from utils.structures import Detections


@dataclass
class ImageDetections(Detections):
    """The detections in one image or frame of a video: boxes (N, 4) xyxy in its pixels, scores (N,), labels (N,).

    frame: the image and where it comes from; names: of the classes; ids: (N,) int64, of the objects that a tracker
    follows, None without one; seen: what the image was looked at as, in words; seconds: that it took.
    """

    frame: Frame
    names: Sequence[str]
    ids: Tensor | None = None
    seen: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, found: Detections, frame: Frame, names: Sequence[str]) -> "ImageDetections":
        """Detections that were found in a frame."""
        return cls(found.boxes, found.scores, found.labels, frame, names)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        return self.frame.image

    @property
    def path(self) -> str:
        return self.frame.path
