"""Evaluations full of what makes evaluators disagree: ties, crowds, empty images and classes, areas at the limits."""

import numpy as np

from engine.evaluation.metrics.engine import PycocotoolsEngine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Matches
from engine.evaluation.metrics.reference import silent
from utils.truth import Truth

SIDES = np.array([0, 1, 4, 8, 16, 32, 40, 96, 120.5])  # 32 and 96 lie on the border of two of COCO's area ranges
AREAS = np.array([0, -1, 64, 256, 1024, 9216, 1e10, 1e11, np.nan])


def ids(random: np.random.Generator, count: int) -> list:
    """Distinct ids: small, negative, larger than 2^53, or strings."""
    kind = random.integers(4)
    values = random.choice(10 * count + 5, count, replace=False).tolist()
    if kind == 0:
        return values
    if kind == 1:
        return [value - 5 for value in values]
    return [2**60 + value for value in values] if kind == 2 else [f"{value:03}" for value in values]


def problem(seed: int, most: int = 40) -> tuple[Truth, Found]:
    """A random truth and detections on it; `most`: detections of one image, now and then 500."""
    random = np.random.default_rng(seed)
    n, k = int(random.integers(1, 6)), int(random.integers(1, 5))
    m, grid = int(random.integers(0, 30)), random.choice([1.0, 10.0, 0.37])

    def boxes(count: int) -> np.ndarray:
        spots = random.integers(0, 5, (count, 2)) * grid
        return np.concatenate((spots, random.choice(SIDES, (count, 2))), 1)

    own = boxes(m)
    areas = np.where(random.random(m) < 0.3, random.choice(AREAS, m), own[:, 2] * own[:, 3])
    crowd = random.random(m) < random.choice([0.0, 0.2])
    truth = Truth(ids(random, n), ids(random, k), random.integers(0, n, m), random.integers(0, k, m), own, areas, crowd)
    per_image = random.integers(0, 500 if random.random() < 0.03 else most, n)
    images = np.repeat(np.arange(n), per_image)
    count = len(images)
    found = boxes(count)
    if m and count:  # half of the detections are objects, exactly or nearly
        of = random.integers(0, m, count)
        near = own[of] + random.choice([0.0, 1.0, 2.5], (count, 4))
        found = np.where((random.random(count) < 0.5)[:, None], near, found)
    scores = random.integers(0, random.choice([2, 6, 1000]), count) / 1000
    return truth, Found(random.random(n) < 2, images, random.integers(0, k, count), found, scores)


def pycocotools_matches(truth: Truth, found: Found, iou: float, max_det: int) -> Matches:
    """What became of each detection at one IoU threshold over all areas, by COCOeval itself."""
    state, objects = np.full(len(found), -1, np.int8), np.full(len(found), -1, np.int64)
    with silent():
        evaluation = PycocotoolsEngine(truth, found).evaluation([iou], {"all": (0.0, 1e10)}, [max_det])
    for image in evaluation.evalImgs:
        if image is not None:
            rows, matched = np.array(image["dtIds"], np.int64) - 1, image["dtMatches"][0].astype(np.int64)
            state[rows] = np.where(image["dtIgnore"][0], -1, matched > 0)
            objects[rows] = np.where(state[rows] == 1, matched - 1, -1)
    return Matches(state, objects)
