"""Weighted boxes fusion equals its published rule, and the published program where that is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inference.merging.fusion import wbf
from tests.engine.inference.merging import plain
from tests.engine.inference.merging.scenes import anything, crowd
from tests.engine.inference.merging.test_suppress import rows


def same(found: list[tuple], expected: list[tuple], tolerance: float = 1e-9) -> None:
    """Equal but for rounding, which may turn the order of scores that are nearly equal."""
    assert len(found) == len(expected)
    sides = [np.array(sorted(rows, key=lambda row: np.round(row, 4).tolist())) for rows in (found, expected)]
    np.testing.assert_allclose(*sides, atol=tolerance)


@given(anything(), st.integers(1, 3), st.sampled_from([0.03, 0.2, 0.5, 0.55, 0.8]), st.sampled_from(["avg", "max"]))
def test_any_boxes(scene, models, threshold, confidence):
    boxes, scores, labels = scene
    boxes = boxes + np.random.default_rng(len(boxes)).random(boxes.shape) * 0.25  # two means may be equally near
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    expected = plain.wbf(boxes[keep], scores[keep], labels[keep], models, threshold, confidence)
    same(rows(wbf(boxes, scores, labels, models, threshold, confidence)), expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.4, 0.55])
def test_crowds(seed, threshold):
    scene = crowd(250, seed)
    same(rows(wbf(*scene, 3, threshold)), plain.wbf(*scene, 3, threshold))
    model = np.arange(len(scene[1])) % 3
    same(rows(wbf(*scene, 3, threshold, "models", model)), plain.wbf(*scene, 3, threshold, "models", model))


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("confidence", ["avg", "max"])
def test_the_published_program(models, confidence):
    library = pytest.importorskip("ensemble_boxes", reason="ensemble-boxes is not installed")
    boxes, scores, labels = crowd(600, seed=5)
    boxes = boxes.clip(0, 400)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    model = np.arange(len(boxes)) % models
    parts = [model == k for k in range(models)]
    theirs = library.weighted_boxes_fusion([boxes[p] / 400 for p in parts], [scores[p] for p in parts],
                                           [labels[p] for p in parts], iou_thr=0.55, conf_type=confidence)
    ours = wbf(boxes, scores, labels, models, confidence=confidence)
    expected = sorted(zip(theirs[1].tolist(), theirs[2].tolist(), *(400 * theirs[0]).T.tolist(), strict=True))
    assert len(ours.scores) < 0.9 * len(boxes)
    same(rows(ours), expected, 2e-3)  # theirs are float32


def test_bad_input():
    assert len(wbf(np.zeros((0, 4)), np.zeros(0), np.zeros(0)).scores) == 0
    for words in ({"models": 0}, {"confidence": "mean"}, {"confidence": "models"}, {"model": np.zeros(0, int)}):
        with pytest.raises(ValueError, match="expected 1 or more"):
            wbf(np.zeros((0, 4)), np.zeros(0), np.zeros(0), **words)
