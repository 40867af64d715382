"""The detections on a split, as columns.

Legend: n images of the truth, D detections.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Found:
    """Detections in the order of the truth's images, and within an image in the order in which they were given.

    seen (n,) bool: images that were looked at, also where nothing was found; images (D,) int64, ascending: positions in
    `Truth.image_ids`; labels (D,) int64: positions in `Truth.category_ids`; boxes (D, 4) float64 left, top, width,
    height in pixels of the original image; scores (D,) float64.
    """

    seen: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        shapes = {"images": (len(self.scores),), "labels": (len(self.scores),), "boxes": (len(self.scores), 4)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Found.{name}: expected {shape}, got {getattr(self, name).shape}")
        if (np.diff(self.images) < 0).any():
            raise ValueError("Found.images: expected ascending positions")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray) -> "Found":
        """Some of the detections: a bool mask or ascending indices (K,); the images stay seen."""
        return Found(self.seen, self.images[rows], self.labels[rows], self.boxes[rows], self.scores[rows])

    @classmethod
    def empty(cls, n: int) -> "Found":
        """Of n images, none seen yet."""
        none = np.zeros(0, np.int64)
        return cls(np.zeros(n, bool), none, none, np.zeros((0, 4)), np.zeros(0))

    @classmethod
    def of_rows(cls, seen: np.ndarray, images: np.ndarray, labels: np.ndarray, boxes: np.ndarray,
                scores: np.ndarray) -> "Found":
        """From columns whose images stand in any order."""
        order = np.argsort(images, kind="stable")
        return cls(seen, images[order], labels[order], boxes[order], scores[order])

    @classmethod
    def join(cls, parts: "Iterable[Found]") -> "Found":
        """Detections of the same truth from several sources; those of one image stand in the order of the parts."""
        parts = list(parts)
        columns = (np.concatenate([getattr(part, name) for part in parts])
                   for name in ("images", "labels", "boxes", "scores"))
        return cls.of_rows(np.logical_or.reduce([part.seen for part in parts]), *columns)

    def of(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (N,), boxes (N, 4) and scores (N,) of the image at one position."""
        start, end = np.searchsorted(self.images, (place, place + 1))
        return self.labels[start:end], self.boxes[start:end], self.scores[start:end]

    def best(self, limit: int, by_class: bool = True) -> "Found":
        """The `limit` best of each image and class, or of each image; of equal scores the first given."""
        return self[self.is_best(limit, by_class)]

    def is_best(self, limit: int, by_class: bool = True) -> np.ndarray:
        """(D,) bool: those that `best` keeps."""
        return self.ranks(by_class) < limit

    def ranks(self, by_class: bool = True) -> np.ndarray:
        """(D,) the place of each detection, from 0, among those of its image and class, or of its image, by falling
        score; of equal scores the first given comes first."""
        keys = (-self.scores, self.labels, self.images) if by_class else (-self.scores, self.images)
        order = np.lexsort(keys)  # stable
        groups = np.stack([key[order] for key in keys[1:]])
        starts = np.flatnonzero((np.diff(groups, axis=1, prepend=-1) != 0).any(0))
        ranks = np.empty(len(self), np.int64)
        ranks[order] = np.arange(len(self)) - np.repeat(starts, np.diff(np.r_[starts, len(self)]))
        return ranks
