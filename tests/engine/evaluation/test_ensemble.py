"""Detections of several models on one split are merged image by image."""

import numpy as np

from engine.evaluation.ensemble import ensemble
from engine.evaluation.metrics.found import Found
from engine.inference.merging.fusion import wbf
from tests.engine.inference.merging.scenes import crowd

N = 4


def found(seed: int, seen=(True,) * N) -> Found:
    """Detections on all seen images but the second."""
    parts = [crowd(30, 10 * seed + k, per_object=3) for k in range(N) if seen[k] and k != 1]
    places = np.repeat([k for k in range(N) if seen[k] and k != 1], 30)
    boxes, scores, labels = map(np.concatenate, zip(*parts, strict=True))
    return Found.of_rows(np.array(seen), places, labels, np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1),
                         scores)


def test_each_image_by_itself():
    models = [found(1), found(2), found(3)]
    merged = ensemble(models, "wbf")
    assert merged.seen.all() and (merged.images != 1).all() and 0 < len(merged) < 270
    labels, boxes, scores = (np.concatenate(column) for column in zip(*(m.of(2) for m in models), strict=True))
    expected = wbf(np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1), scores, labels, 3,
                   confidence="models", model=np.repeat([0, 1, 2], 30))
    got = merged.of(2)
    np.testing.assert_array_equal(got[0], expected.labels)
    np.testing.assert_allclose(got[1][:, :2] + got[1][:, 2:], expected.boxes[:, 2:], atol=2e-3)
    np.testing.assert_allclose(got[2], expected.scores, atol=1e-5)


def test_one_model_with_itself():
    alone, twice = ensemble([found(1)], "nms"), ensemble([found(1), found(1)], "nms")
    assert 0 < len(alone) < 90
    for name in ("images", "labels", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(twice, name))


def test_images_that_one_model_has_not_seen():
    merged = ensemble([found(1), found(2, (True, True, False, True))], "nms", limit=5)
    assert merged.seen.tolist() == [True, True, False, True]
    assert np.bincount(merged.images, minlength=N).tolist() == [5, 0, 0, 5]
    assert len(ensemble([Found.empty(2), Found.empty(2)], "wbf")) == 0
