"""AP over object size: its values are those of COCO's rule, its intervals hold what they should."""

import csv

import numpy as np
import pytest

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import COCO, PROTOCOLS
from engine.evaluation.plots import plot_size_curve
from engine.evaluation.size_curve import size_curve, write_size_csv
from utils.truth import Truth


def scene(n: int = 60, seed: int = 0) -> tuple[Truth, Found]:
    """Objects of 5 to 100 px in two classes; the larger, the likelier they are found. Areas are those of the boxes."""
    random = np.random.default_rng(seed)
    image, label = np.repeat(np.arange(n), 6), random.integers(0, 2, 6 * n)
    side = np.exp(random.uniform(np.log(5), np.log(100), 6 * n))
    boxes = np.column_stack((np.tile(np.arange(6) * 200.0, n), np.zeros(6 * n), side, side))
    truth = Truth(list(range(n)), [1, 2], image, label, boxes, side ** 2, np.zeros(6 * n, bool))
    hit = random.random(6 * n) < side / 100
    moved = np.where(hit[:, None], boxes, boxes + [0, 150, 0, 0])
    return truth, Found(np.ones(n, bool), image, label, moved, random.random(6 * n).round(3))


def test_each_bin_is_an_area_range_of_cocos_rule():
    truth, found = scene()
    curve = size_curve(truth, found, resamples=2)
    own = judge(truth, found, protocol=COCO.changed((0.5,), curve.edges[1:-1].tolist()))
    assert curve.edges.tolist() == [4, 8, 16, 32, 64, 128] and curve.name == "AP50"
    assert curve.ap == pytest.approx(own.sizes.mean, abs=1e-6)
    assert curve.objects.tolist() == own.sizes.objects.sum(0).tolist()
    assert (np.diff(curve.ap) > 0).all() and 0 < curve.ap[0] < 0.3 < curve.ap[-1]


def test_intervals_hold_the_value_and_shrink_with_more_images():
    few, many = (size_curve(*scene(n)) for n in (30, 300))
    assert (few.low <= few.ap).all() and (few.ap <= few.high).all() and (few.low < few.high).all()
    assert (many.high - many.low < few.high - few.low).all()
    again = size_curve(*scene(30))
    assert np.array_equal(few.low, again.low) and np.array_equal(few.high, again.high)


def test_an_interval_holds_what_other_images_of_the_same_kind_give():
    curve = size_curve(*scene(100, seed=1))
    others = np.array([size_curve(*scene(100, seed), resamples=2).ap for seed in range(2, 22)])
    inside = ((curve.low <= others) & (others <= curve.high)).mean()
    assert 0.6 < inside < 1  # two samples differ by sqrt(2) times as much as one from the mean: 83 % are expected


def test_gaps_in_size_have_no_value_and_stay_in_the_file(tmp_path):
    truth, found = scene(4)
    keep = (truth.areas < 64) | (truth.areas > 64 ** 2)
    columns = (getattr(truth, word)[keep] for word in ("image", "label", "boxes", "areas", "crowd"))
    own = Truth(truth.image_ids, [1, 2], *columns)
    curve = size_curve(own, found, PROTOCOLS["visdrone"], resamples=20)
    assert curve.objects.tolist()[1:4] == [0, 0, 0] and np.isnan(curve.ap[1:4]).all()
    write_size_csv(tmp_path / "AP_size.csv", curve)
    plot_size_curve(curve, tmp_path / "AP_size.png")
    with (tmp_path / "AP_size.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["from_px"] for row in rows] == ["4", "8", "16", "32", "64"] and rows[2]["AP50"] == ""
    assert float(rows[-1]["AP50"]) == pytest.approx(curve.ap[-1], abs=1e-6)


def test_without_objects_there_is_no_curve():
    none = np.zeros(0, np.int64)
    truth = Truth([1], [1], none, none, np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))
    assert size_curve(truth, Found.empty(1)) is None


def test_tinypersons_least_overlap_and_marked_objects():
    truth, found = scene(20)
    truth.marked[:50] = True
    curve = size_curve(truth, found, PROTOCOLS["tinyperson"].changed(ious=(0.25,)), resamples=2)
    assert curve.name == "AP25" and curve.objects.sum() == 70
