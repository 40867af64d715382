"""COCO's results file, detections_[set]_[algorithm]_results.json in a zip file of the same stem.

The form is that of https://cocodataset.org/#format-results and https://cocodataset.org/#upload.
"""

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.errors import UserError
from utils.files import replacing

MAX_DETECTIONS = 100  # of an image that the server counts


class Detected(Protocol):
    """Detections of a split, by image: images, labels (D,) positions, images ascending; boxes (D, 4) left, top, width,
    height in pixels of the original image; scores (D,)."""

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def file_stem(test_set: str, name: str) -> str:
    """The stem of the JSON and the zip file that the server takes."""
    return f"detections_{test_set}_{name}_results"


def best_rows(images: np.ndarray, scores: np.ndarray, most: int = MAX_DETECTIONS) -> np.ndarray:
    """(D,) bool: the `most` highest scores of each image, of equal ones the first. images (D,) ascending."""
    order = np.lexsort((-scores, images))  # stable
    first = np.searchsorted(images, images, side="left")  # where each image begins, the same in both orders
    kept = np.empty(len(images), bool)
    kept[order] = np.arange(len(images)) - first < most
    return kept


def write_rows(path: Path, rows: Iterable[str], block: int = 5000) -> int:
    """Write `result_rows` as a JSON list, a row per line, atomically; returns how many.

    Memory does not grow with their number.
    """
    count, rows = 0, iter(rows)
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
            file.write("[")
            while part := list(islice(rows, block)):
                file.write(",\n" * (count > 0) + ",\n".join(part))
                count += len(part)
            file.write("]\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", "unwritable-file") from None
    return count


def result_rows(image_ids: Sequence[Hashable], category_ids: Sequence[Hashable], found: Detected) -> Iterator[str]:
    """COCO's rows of detections as JSON, boxes to 1/1000 pixel and scores to 1e-5.

    image_ids, category_ids: what the positions in `found.images` and `found.labels` are called in the file.
    """
    heads = [f'{{"image_id":{json.dumps(image)},"category_id":' for image in image_ids]
    kinds = [json.dumps(category) for category in category_ids]
    for start in range(0, len(found.images), 10_000):
        part = slice(start, start + 10_000)
        columns = (found.images[part].tolist(), found.labels[part].tolist(), found.boxes[part].round(3).tolist(),
                   found.scores[part].round(5).tolist())
        for image, label, box, score in zip(*columns, strict=True):  # the repr of a list of floats is its JSON
            yield f'{heads[image]}{kinds[label]},"bbox":{box!r},"score":{score!r}}}'
