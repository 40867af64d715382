"""Made-up truths and results on them."""

import json
from pathlib import Path

import numpy as np

from engine.evaluation.metrics.found import Found
from utils.truth import Truth


def random_truth(seed: int, images: int = 8, classes: int = 3, most: int = 5) -> Truth:
    """Objects of all sizes, also at the limits of sizes, crowds, and an area that is no number."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, most + 1, images)
    image = np.repeat(np.arange(images), counts)
    sides = random.choice([8, 16, 32, 40, 96, 120], (len(image), 2)).astype(float)
    boxes = np.concatenate((random.integers(0, 40, (len(image), 2)) * 4.0, sides), 1)
    areas = np.where(random.random(len(image)) < 0.05, np.nan, sides.prod(1))
    ids = random.permutation(images * 2)[:images].tolist()
    return Truth(ids, [5, 2, 9][:classes], image, random.integers(0, classes, len(image)), boxes, areas,
                 random.random(len(image)) < 0.15)


def random_found(truth: Truth, seed: int, more: int = 6, ties: bool = True) -> Found:
    """Objects moved a little, some twice, and boxes where there are none; ties: many equal scores."""
    random = np.random.default_rng(seed)
    n, k = len(truth.image_ids), len(truth.category_ids)
    rows = random.integers(0, max(len(truth.image), 1), 2 * len(truth.image))
    moved = truth.boxes[rows] + random.choice([0, 0, 1, 4, 9], (len(rows), 4))
    stray = np.concatenate((random.integers(0, 160, (n * more, 2)), random.choice([8, 30, 100], (n * more, 2))), 1)
    count = len(rows) + len(stray)
    scores = random.integers(1, 8, count) / 8 if ties else random.permutation(count) / count
    return Found.of_rows(np.ones(n, bool), np.concatenate((truth.image[rows], np.repeat(np.arange(n), more))),
                         np.concatenate((truth.label[rows], random.integers(0, k, len(stray)))),
                         np.concatenate((moved, stray)).astype(float), scores)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
