"""TIDE's errors and calibration: cases whose answer is plain.

Once, tidecv 1.0.1 (the authors' program) was run on 20 random sets of 200 detections in 6 images: the numbers of all
errors were the same, and every gain of AP within 0.0013; where AP itself differs, pycocotools agrees with hotcoco.
"""

import numpy as np
import pytest

from engine.evaluation.metrics.engine import HotcocoEngine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from tests.engine.evaluation.metrics.problems import problem
from utils.truth import Truth

A, B, C = (0, 0, 20, 20), (50, 0, 20, 20), (0, 50, 20, 20)  # left, top, width, height
NEAR = (10, 0, 20, 20)  # IoU 1/3 with A
FAR = (90, 90, 10, 10)


def engine_of(rows, objects=((A, 0), (B, 1), (C, 0))) -> HotcocoEngine:
    """rows: box, label and score of detections in one image."""
    boxes = np.array([box for box, _ in objects], float)
    truth = Truth([1], [1, 2], np.zeros(len(objects), np.int64), np.array([label for _, label in objects]), boxes,
                  boxes[:, 2] * boxes[:, 3], np.zeros(len(objects), bool))
    found = Found(np.ones(1, bool), np.zeros(len(rows), np.int64), np.array([row[1] for row in rows], np.int64),
                  np.array([row[0] for row in rows], float).reshape(-1, 4), np.array([row[2] for row in rows], float))
    return HotcocoEngine(truth, found)


@pytest.mark.parametrize(("error", "wrong"), [
    ("Cls", (C, 1, 0.8)), ("Loc", (NEAR, 0, 0.8)), ("Both", (NEAR, 1, 0.8)), ("Dupe", (A, 0, 0.8)),
    ("Bkg", (FAR, 0, 0.8))])
def test_one_error_of_each_type(error, wrong):
    told = engine_of([(A, 0, 0.9), (B, 1, 0.9), (C, 0, 0.7), wrong]).tide()
    assert told["counts"] == dict.fromkeys(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), 0) | {error: 1}
    if error in ("Dupe", "Bkg"):  # they stand before a hit of their class
        assert told["delta_ap"][error] > 0


def test_a_miss():
    told = engine_of([(A, 0, 0.9), (B, 1, 0.9)]).tide()
    assert told["counts"]["Miss"] == 1 and told["delta_ap"]["Miss"] > 0.2
    assert told["ap_base"] + told["delta_ap"]["Miss"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(12))
def test_the_base_is_ap50(seed):
    truth, found = problem(seed)
    if len(truth.image) and not truth.crowd.all() and len(found):
        told = HotcocoEngine(truth, found).tide()
        assert told["ap_base"] == pytest.approx(max(judge(truth, found)["AP50"], 0), abs=1e-9)


def test_calibration_of_known_scores():
    rows = [(A, 0, 0.95), (FAR, 0, 0.85), (C, 0, 0.25), (B, 1, 0.22), ((80, 80, 9, 9), 1, 0.21)]
    told = engine_of(rows).calibration()
    bins = {round(row["bin_lower"], 1): row for row in told["bins"] if row["count"]}
    assert {low: (row["count"], row["avg_accuracy"]) for low, row in bins.items()} == {
        0.2: (3, pytest.approx(2 / 3)), 0.8: (1, 0), 0.9: (1, 1)}
    assert told["ece"] == pytest.approx((3 * (2 / 3 - 0.68 / 3) + 0.85 + 0.05) / 5)
