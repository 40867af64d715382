"""Anchors: how well a table fits, learned ones, and how they come into a model."""

import time

import numpy as np
import pytest

from engine.training.autoanchor import adapt_anchors, best_possible_recall, fit_anchors
from models import build_model
from models.catalogue import resolve
from models.heads.anchor import anchor_pairs
from utils.errors import UserError

V5 = np.array([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]).reshape(3, 3, 2)


def objects(n=4000, centre=40.0, seed=0):
    rng = np.random.default_rng(seed)
    side, aspect = centre * np.exp(rng.normal(0, 1.0, n)), np.exp(rng.normal(0, 0.4, n))
    return np.clip(np.stack([side * aspect, side / aspect], 1), 2, 640)


def test_recall_counts_objects_whose_both_sides_are_within_the_threshold():
    anchors = np.array([[[10.0, 10.0]], [[100.0, 100.0]]])
    wh = np.array([[39, 39], [41, 41], [20, 3], [20, 2], [10, 399], [2.4, 10]])
    fit = best_possible_recall(wh, anchors)
    assert fit.bpr == pytest.approx(2 / 6 + 1 / 6)  # 39 (by both), 41 (by 100 alone), 20 x 3
    assert fit.per_object == pytest.approx((2 + 1 + 1) / 6)
    wider = best_possible_recall(wh, anchors, threshold=5.0)
    assert wider.bpr == pytest.approx(4 / 6)  # 2.4 x 10 too; 20 x 2 is on the edge
    assert best_possible_recall(np.zeros((0, 2)), anchors) == (0.0, 0.0)


def test_learned_anchors_reach_more_than_the_published_ones_and_run_from_small_to_large():
    wh = objects(centre=9)
    learned = fit_anchors(wh, 3, 3)
    assert learned.shape == (3, 3, 2)
    areas = learned.prod(-1).ravel()
    assert (np.diff(areas) >= 0).all()
    assert best_possible_recall(wh, learned).bpr > 0.99 > 0.8 > best_possible_recall(wh, V5).bpr


def test_equal_seeds_equal_anchors_and_evolution_gains():
    wh = objects()
    assert np.array_equal(fit_anchors(wh, 3, 3, seed=1), fit_anchors(wh, 3, 3, seed=1))
    assert not np.array_equal(fit_anchors(wh, 3, 3, seed=1), fit_anchors(wh, 3, 3, seed=2))

    def closeness(anchors):
        ratio = wh[:, None] / anchors.reshape(-1, 2)
        return np.minimum(ratio, 1 / ratio).min(-1).max(1).mean()

    assert closeness(fit_anchors(wh, 3, 3)) > closeness(fit_anchors(wh, 3, 3, generations=0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_objects_than_anchors(n):
    wh = objects(n)
    learned = fit_anchors(wh, 3, 3, generations=20)
    assert np.isfinite(learned).all() and (learned >= 2).all() and best_possible_recall(wh, learned).bpr == 1


def test_a_data_set_as_large_as_coco_takes_seconds():
    wh = objects(860_000).astype(np.float32)
    began = time.process_time()
    fit_anchors(wh, 3, 3)
    assert time.process_time() - began < 20


def test_anchors_that_fit_stay_and_a_model_without_any_is_left_alone():
    config = resolve("yolov5n", 2)
    same, told = adapt_anchors(config, objects(), 640)
    assert same is config and "kept" in told
    config = resolve("yolov8n", 2)
    assert adapt_anchors(config, objects(centre=4), 640) == (config, "")
    config = resolve("yolov5n", 2)
    assert adapt_anchors(config, np.zeros((0, 2)), 640)[0] is config


@pytest.mark.parametrize("name", ["yolov5n", "yolov7-tiny", "yolov7-w6", "yolov3-tiny"])
@pytest.mark.parametrize("neck", [None, "assn"])
def test_anchors_that_do_not_fit_are_replaced_in_the_config(name, neck):
    config = resolve(name, 2, neck=neck)
    wh = objects(centre=5)
    adapted, told = adapt_anchors(config, wh, 640)
    assert "too few" in told and adapted is not config and config == resolve(name, 2, neck=neck)
    head = build_model(adapted).head
    assert best_possible_recall(wh, head.anchors.numpy()).bpr > 0.98
    np.testing.assert_allclose(head.anchors.numpy(), np.array(adapted["anchors"]), rtol=1e-6)
    assert adapt_anchors(adapted, wh, 640)[0] is adapted  # fitted ones are kept


@pytest.mark.parametrize("where", ["table in the row", "row as a mapping", "option"])
def test_anchors_written_in_the_heads_row_are_replaced_too(where):
    config = resolve("yolov5n", 2)
    sources, repeats, module, (nc, _), *_ = config["head"][-1]
    table = config.pop("anchors")
    config["head"][-1] = {"table in the row": [sources, repeats, module, [nc, table]],
                          "row as a mapping": {"from": sources, "module": module, "args": [nc, table]},
                          "option": [sources, repeats, module, [nc], None, {"anchors": table}]}[where]
    adapted, _ = adapt_anchors(config, objects(centre=5), 640)
    assert build_model(adapted).head.anchors.numpy() == pytest.approx(np.array(adapted["anchors"]))


def test_a_count_builds_a_default_spread_and_learns_from_data():
    config = {**resolve("yolov5n", 2), "anchors": 4}
    assert build_model(config).head.anchors.shape == (3, 4, 2)
    adapted, told = adapt_anchors(config, objects(), 640)
    assert "12 fitted to the data" in told
    assert np.shape(adapted["anchors"]) == (3, 4, 2)
    assert build_model(adapted).head.m[0].out_channels == 4 * 7
    assert adapt_anchors(config, np.zeros((0, 2)), 640)[0]["anchors"] == 4


def test_a_recipe_may_ask_for_another_number_of_anchors():
    adapted, _ = adapt_anchors(resolve("yolov5n", 2), objects(), 640, count=5)
    assert np.shape(adapted["anchors"]) == (3, 5, 2)
    assert adapt_anchors(resolve("yolov5n", 2), np.zeros((0, 2)), 640, count=5)[0]["anchors"] == 5


def test_the_default_spread_reaches_from_half_the_finest_stride_to_the_frame():
    spread = np.array(anchor_pairs(3, [8, 16, 32]))
    assert spread[:, :, 0].tolist() == [[16, 32, 64], [32, 64, 128], [64, 128, 256]]
    squares = np.repeat(np.geomspace(4.1, 1000, 200)[:, None], 2, 1)
    assert best_possible_recall(squares, spread).bpr == 1


def test_a_count_and_a_neck_before_auxiliary_heads():
    config = {**resolve("yolov7-w6", 2, neck="assn"), "anchors": 3}
    assert build_model(config).head.anchors.shape == (4, 3, 2)


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_count_that_is_none_is_told(count):
    with pytest.raises(UserError, match="anchors"):
        build_model({**resolve("yolov5n", 2), "anchors": count})
