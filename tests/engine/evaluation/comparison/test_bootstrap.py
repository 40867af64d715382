"""Resampled numbers are those of the resampled images, judged like any others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.comparison.bootstrap import differences_to_first, draw_weights, interval, resampled
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.matching import outcomes_of
from engine.evaluation.metrics.protocol import COCO, Protocol, Stat
from tests.engine.evaluation.comparison.kit import random_found, random_truth
from tests.engine.evaluation.metrics.problems import pycocotools_matches
from utils.truth import Truth

FEW = replace(COCO.with_limit(4), stats=tuple(replace(s, max_det=4) if s.max_det == 100 else s for s in COCO.stats
                                              if s.max_det != 10), max_dets=(1, 4))
TINY = Protocol("tiny", "another", (0.25, 0.5), {"all": (0.0, 1e10), "edge": (64.0, 1024.0)}, (100,),
                (Stat("AP", "AP"), Stat("AP25", "AP", 0.25), Stat("AP_e", "AP", 0.5, "edge"), Stat("AR", "AR")))


def judged(truth: Truth, found: Found, protocol: Protocol) -> np.ndarray:
    values = np.array([*judge(truth, found, protocol=protocol).values.values()])
    return np.where(values < 0, np.nan, values)


def copied(truth: Truth, found: Found, weights: np.ndarray) -> tuple[Truth, Found]:
    """The images drawn, copies as images of their own, in the order in which COCOeval sorts ids."""
    places = [i for i in np.argsort(truth.image_ids) for _ in range(int(weights[i]))]
    rows = [np.flatnonzero(truth.image == i) for i in places]
    pick = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64)
    columns = {word: getattr(truth, word)[pick] for word in ("label", "boxes", "areas", "crowd")}
    image = np.repeat(np.arange(len(places)), [len(r) for r in rows])
    own = [np.flatnonzero(found.images == i) for i in places]
    at = np.concatenate([*own, np.zeros(0, np.int64)]).astype(np.int64)
    return (Truth(list(range(len(places))), truth.category_ids, image=image, **columns),
            Found(np.ones(len(places), bool), np.repeat(np.arange(len(places)), [len(r) for r in own]),
                  found.labels[at], found.boxes[at], found.scores[at]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([COCO, FEW, TINY]))
def test_each_image_once_gives_the_numbers_of_the_engine(seed, protocol):
    truth = random_truth(seed)
    found = random_found(truth, seed + 1)
    np.testing.assert_allclose(resampled(truth, found, protocol, np.ones((1, 8), np.float32))[0],
                               judged(truth, found, protocol), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([COCO, FEW, TINY]))
def test_resamples_are_judged_as_copies_of_their_images(seed, protocol):
    """A plain bootstrap: images drawn, copied, matched and accumulated anew. Equal scores would tie with copies."""
    truth = random_truth(seed)
    found = random_found(truth, seed + 1, ties=False)
    weights = draw_weights(8, 4, seed)
    for row, weight in zip(resampled(truth, found, protocol, weights), weights, strict=True):
        np.testing.assert_allclose(row, judged(*copied(truth, found, weight), protocol), atol=1e-6)


@pytest.mark.parametrize("iou", [0.5, 0.75, 0.95])
def test_outcomes_are_those_of_pycocotools(iou):
    for seed in range(20):
        truth = random_truth(seed)
        found = random_found(truth, seed)
        outcomes = outcomes_of(truth, found, COCO)
        at = int(np.argmin(np.abs(np.array(COCO.ious) - iou)))
        assert (outcomes.state[0, at] == pycocotools_matches(truth, found, COCO.ious[at], 100).state).all()


def test_intervals_are_percentiles_of_the_differences_of_a_plain_bootstrap():
    truth = random_truth(3, images=12)
    first, second = random_found(truth, 4, ties=False), random_found(truth, 5, ties=False)
    gain, = differences_to_first(truth, [first, second], COCO, resamples=40, seed=7)
    plain = [judged(*copied(truth, second, w), COCO)[0] - judged(*copied(truth, first, w), COCO)[0]
             for w in draw_weights(12, 40, 7)]
    assert (gain["AP"].low, gain["AP"].high) == pytest.approx(np.percentile(plain, (2.5, 97.5)), abs=1e-6)
    assert gain["AP"].value == pytest.approx(judged(truth, second, COCO)[0] - judged(truth, first, COCO)[0], abs=1e-6)
    assert gain["AP"].is_clear == (not np.percentile(plain, 2.5) <= 0 <= np.percentile(plain, 97.5))


def test_the_same_results_do_not_differ_and_other_seeds_draw_other_images():
    truth = random_truth(1)
    found = random_found(truth, 2)
    gain, = differences_to_first(truth, [found, found], COCO, resamples=20)
    assert all(g.value == g.low == g.high == 0 and not g.is_clear for g in gain.values() if np.isfinite(g.value))
    assert (draw_weights(50, 3, 0) == draw_weights(50, 3, 0)).all() and (draw_weights(50, 3, 0).sum(1) == 50).all()
    assert (draw_weights(50, 3, 0) != draw_weights(50, 3, 1)).any()


def test_better_results_are_told_from_worse_ones():
    truth = random_truth(11, images=40)
    exact = Found.of_rows(np.ones(40, bool), truth.image, truth.label, truth.boxes, np.ones(len(truth.image)))
    gain, = differences_to_first(truth, [random_found(truth, 2), exact], COCO, resamples=100)
    assert gain["AP"].is_clear and 0 < gain["AP"].low <= gain["AP"].value <= gain["AP"].high


def test_without_detections_or_objects_of_a_size_there_is_no_fault():
    truth = random_truth(5)
    gain, = differences_to_first(truth, [Found.empty(8), Found.empty(8)], COCO, resamples=5)
    assert gain["AP"].value == 0
    bare = replace(truth, crowd=np.ones(len(truth.image), bool))
    assert np.isnan(resampled(bare, random_found(truth, 1), COCO, np.ones((1, 8), np.float32))).all()


def test_a_number_that_few_images_define_has_no_interval():
    """One image with such objects: more than a third of the resamples are without it."""
    draws = np.linspace(0, 1, 1000)
    assert interval(draws) == pytest.approx((0.025, 0.975))
    assert interval(np.where(np.arange(1000) < 20, np.nan, draws))[0] > 0
    assert np.isnan(interval(np.where(np.arange(1000) < 30, np.nan, draws))).all()
