"""Suppression and merging equal their published rules, whatever the boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inference.merging import pairs, suppress
from engine.inference.merging.pairs import matching_pairs
from engine.inference.merging.suppress import nmm, nms
from tests.engine.inference.merging import plain
from tests.engine.inference.merging.scenes import THRESHOLDS, anything, crowd

METRIC = st.sampled_from(["iou", "ios"])


def all_pairs(boxes, labels, metric, threshold) -> list[tuple[int, int]]:
    return [(a, b) for a in range(len(boxes)) for b in range(a + 1, len(boxes))
            if plain.matches(boxes, labels, a, b, metric, threshold)]


def found_pairs(boxes, labels, metric, threshold) -> list[tuple[int, int]]:
    return sorted(pair for a, b in matching_pairs(boxes, labels, metric, threshold)
                  for pair in zip(a.tolist(), b.tolist(), strict=True))


def rows(merged) -> list[tuple]:
    return sorted((score, label, *box) for box, score, label in
                  zip(merged.boxes.tolist(), merged.scores.tolist(), merged.labels.tolist(), strict=True))


@given(anything(), METRIC, THRESHOLDS)
def test_every_pair_is_found_once(scene, metric, threshold):
    boxes, _, labels = scene
    assert found_pairs(boxes, labels, metric, threshold) == all_pairs(boxes, labels, metric, threshold)


@pytest.mark.parametrize("metric", ["iou", "ios"])
def test_pairs_of_a_crowd_in_small_chunks(metric, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK", 50)
    boxes, _, labels = crowd(300)
    assert found_pairs(boxes, labels, metric, 0.4) == all_pairs(boxes, labels, metric, 0.4)


@given(anything(), METRIC, THRESHOLDS)
def test_nms(scene, metric, threshold):
    assert nms(*scene, metric, threshold).tolist() == plain.nms(*scene, metric, threshold)


@given(anything(), METRIC, THRESHOLDS, st.booleans())
def test_nmm(scene, metric, threshold, greedy):
    assert rows(nmm(*scene, metric, threshold, greedy=greedy)) == plain.nmm(*scene, metric, threshold, greedy)


@pytest.mark.parametrize("metric", ["iou", "ios"])
@pytest.mark.parametrize("seed", range(3))
def test_crowds(metric, seed):
    scene = crowd(250, seed)
    assert nms(*scene, metric, 0.5).tolist() == plain.nms(*scene, metric, 0.5)
    for greedy in (True, False):
        merged = nmm(*scene, metric, 0.5, greedy=greedy)
        assert rows(merged) == plain.nmm(*scene, metric, 0.5, greedy)
        assert (np.diff(merged.scores) <= 0).all() and (scene[2][merged.source] == merged.labels).all()


@pytest.mark.parametrize("many", [0, 10, 200])
def test_so_many_matches_that_the_better_half_goes_first(many, monkeypatch):
    monkeypatch.setattr(suppress, "MANY", many)
    scene = crowd(250, seed=4, per_object=60)
    assert nms(*scene, "ios", 0.5).tolist() == plain.nms(*scene, "ios", 0.5)
    assert rows(nmm(*scene, "ios", 0.5)) == plain.nmm(*scene, "ios", 0.5)


def test_halving_ends_where_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(suppress, "MANY", 0)
    boxes = np.array([[0, 0, 10, 10], [100, 0, 110, 10], [5, 0, 15, 10], [104, 0, 114, 10.0]])
    assert nms(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4), "iou", 0.3).tolist() == [0, 1]


def test_only_what_joins_is_merged():
    """The second box is claimed by the first and dropped, the third is merged into it."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 14], [3, 0, 14, 10.0]])

    def joins(claimed, claiming):
        assert claiming.tolist() == [0, 0]
        return claimed == 2

    merged = nmm(boxes, np.array([0.9, 0.8, 0.7]), np.zeros(3), joins=joins)
    assert merged.boxes.tolist() == [[0, 0, 14, 10]] and merged.scores.tolist() == [0.9]


def test_order_of_views_does_not_matter():
    boxes, scores, labels = crowd(200, seed=7)
    scores = scores.round(1)
    turn = np.random.default_rng(0).permutation(200)
    assert rows(nmm(boxes, scores, labels)) == rows(nmm(boxes[turn], scores[turn], labels[turn]))


@pytest.mark.parametrize("function", [nms, nmm])
def test_nothing_and_bad_input(function):
    found = function(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert len(found if function is nms else found.scores) == 0
    with pytest.raises(ValueError, match="expected boxes"):
        function(np.zeros((2, 4)), np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        function(np.full((1, 4), np.nan), np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="giou"):
        function(np.zeros((1, 4)), np.zeros(1), np.zeros(1), "giou")
