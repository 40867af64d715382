"""Small images on disk with records written by hand, and whether batches of them are equal."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from data.labels.records import Record
from utils.structures import Batch


@dataclass
class Index:
    """As much of a `data.index.Index` as loaders need."""

    records: list[Record]


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 without sharp edges, so that two ways of interpolating it agree."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40.0
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0.3, 1.2, (3, 3))]
    return np.clip(128 + 100 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def random_boxes(rng: np.random.Generator, n: int, height: int, width: int) -> np.ndarray:
    """(N, 4) float32 xyxy inside an image."""
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), 1) * (width, height)
    return corners.reshape(n, 4).astype(np.float32)


def make_records(folder: Path, sizes: list[tuple[int, int]], labels: int = 5, suffix: str = ".jpg") -> list[Record]:
    """Write one image per (height, width); ids are 100, 101, ...; the last label of each image is a crowd region."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, (height, width) in enumerate(sizes):
        rng = np.random.default_rng(i)
        path = folder / f"{i}{suffix}"
        path.write_bytes(cv2.imencode(suffix, smooth(height, width, i))[1].tobytes())
        ignore = np.zeros(labels, bool)
        ignore[labels - 1:] = True
        records.append(Record(str(path), 100 + i, height, width, random_boxes(rng, labels, height, width),
                              rng.integers(0, 7, labels), ignore))
    return records


def equal_batches(a: Batch, b: Batch) -> bool:
    """Whether two batches are the same, bit for bit."""
    arrays = [(x.images, x.targets.boxes, x.targets.labels, x.targets.ignore, x.targets.valid) for x in (a, b)]
    return a.image_ids == b.image_ids and a.letterboxes == b.letterboxes and all(map(torch.equal, *arrays))
