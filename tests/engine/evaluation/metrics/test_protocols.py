"""Each protocol against a plain, slow transcription of its published definition, on random problems."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.metrics.engine import HotcocoEngine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge, stats_of
from engine.evaluation.metrics.matching import match_at
from engine.evaluation.metrics.protocol import COCO, COCO_IOUS, PROTOCOLS
from engine.evaluation.metrics.visdrone import covered, region_rows
from tests.engine.evaluation.metrics import published
from tests.engine.evaluation.metrics.problems import problem, pycocotools_matches
from utils.truth import Truth

# The tables as the papers print them, without the code under test: areas in px^2, overlaps, number of detections
ALL, TENTHS = (0, 1e10), [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
PAPERS = {
    "aitod": {"AP": (ALL, TENTHS, 1500), "AP50": (ALL, [0.5], 1500), "AP75": (ALL, [0.75], 1500),
              "AP_vt": ((0, 64), TENTHS, 1500), "AP_t": ((64, 256), TENTHS, 1500), "AP_s": ((256, 1024), TENTHS, 1500),
              "AP_m": ((1024, 1e10), TENTHS, 1500), "AR1": (ALL, TENTHS, 1), "AR100": (ALL, TENTHS, 100),
              "AR1500": (ALL, TENTHS, 1500), "AR_vt": ((0, 64), TENTHS, 1500)},
    "tinyperson": {"AP50_tiny": ((1, 400), [0.5], 200), "AP50_tiny1": ((1, 64), [0.5], 200),
                   "AP50_tiny2": ((64, 144), [0.5], 200), "AP50_tiny3": ((144, 400), [0.5], 200),
                   "AP50_small": ((400, 1024), [0.5], 200), "AP25_tiny": ((1, 400), [0.25], 200),
                   "AP75_tiny": ((1, 400), [0.75], 200), "AP50": ((1, 1e10), [0.5], 200),
                   "AR50_tiny": ((1, 400), [0.5], 200)},
    "sodad": {"AP": (ALL, TENTHS, 20_000), "AP50": (ALL, [0.5], 20_000), "AP_eS": ((0, 144), TENTHS, 20_000),
              "AP_rS": ((144, 400), TENTHS, 20_000), "AP_gS": ((400, 1024), TENTHS, 20_000),
              "AP_N": ((1024, 2000), TENTHS, 20_000), "AR100": (ALL, TENTHS, 100)}}


def marked(seed: int) -> tuple[Truth, Found]:
    """A problem of at most four images in which some annotations are marked `ignore`."""
    truth, found = problem(seed, most=12)
    random = np.random.default_rng(seed + 1)
    truth.marked[:] = random.random(len(truth.marked)) < 0.2
    return truth, found.best(40, by_class=False)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("seed", [0, 2, 10, 13, 17, 18, 19, 25, 28])
def test_protocols_of_cocos_rule_give_the_papers_numbers(name, seed):
    truth, found = marked(seed)
    values = judge(truth, found, protocol=PROTOCOLS[name]).values
    for stat, (span, ious, limit) in PAPERS[name].items():
        column = 1 if stat.startswith("AR") else 0
        rows = [published.coco_like(truth, found, iou, span, limit, name == "tinyperson") for iou in ious]
        defined = [row[column] for of_iou in rows for row in of_iou if row[column] >= 0]
        expected = np.mean(defined) if defined else -1
        assert values[stat] == pytest.approx(expected, abs=1e-9), stat


def test_each_limit_of_detections_is_reached():
    """With 1501 detections of an image, of which the last alone is right, 1500 do not find it."""
    for name, limit in {"aitod": 1500, "tinyperson": 200, "sodad": 20_000, "coco": 100}.items():
        truth = Truth([1], [1], np.zeros(1, int), np.zeros(1, int), np.array([[0, 0, 5, 5.0]]), np.array([25.0]),
                      np.zeros(1, bool))
        for extra, expected in ((0, 0), (1, 1)):
            count = limit + 1 - extra
            boxes = np.tile([100.0, 100, 5, 5], (count, 1))
            boxes[-1] = 0, 0, 5, 5
            found = Found(np.ones(1, bool), np.zeros(count, int), np.zeros(count, int), boxes,
                          np.linspace(1, 0.1, count))
            metrics = judge(truth, found, protocol=PROTOCOLS[name])
            assert (metrics["AP50_tiny" if name == "tinyperson" else "AP"] > 0) == expected, (name, extra)


def with_regions(seed: int) -> tuple[Truth, Found, dict[int, list]]:
    """A problem of VisDrone's: regions as crowds of every class, objects of score 0 as crowds of one."""
    truth, found = marked(seed)
    random = np.random.default_rng(seed)
    truth = replace(truth, areas=truth.boxes[:, 2] * truth.boxes[:, 3])
    k, n, regions = len(truth.category_ids), len(truth.image_ids), {}
    columns = [truth.image, truth.label, truth.boxes, truth.crowd, truth.marked]
    for image in range(n):
        own = [random.choice([3.0, 7.5, 20, 41], 4) + 0.01 for _ in range(random.integers(0, 4))]
        regions[image] = own
        for box in own:
            fresh = [np.full(k, image), np.arange(k), np.tile(box, (k, 1)), np.ones(k, bool), np.zeros(k, bool)]
            columns = [np.concatenate(pair) for pair in zip(columns, fresh, strict=True)]
    boxes = columns[2]
    full = Truth(truth.image_ids, truth.category_ids, columns[0], columns[1], boxes, boxes[:, 2] * boxes[:, 3],
                 columns[3], marked=columns[4])
    return full, found, regions


@pytest.mark.parametrize("seed", [seed for seed in range(40) if len(problem(seed)[0].category_ids) > 1])
def test_visdrone_is_the_text_of_its_toolkit(seed):
    truth, found, regions = with_regions(seed)
    plain, _ = marked(seed)
    values = judge(truth, found, protocol=PROTOCOLS["visdrone"]).values
    expected = published.visdrone(plain, found, regions)
    assert values == pytest.approx(expected, abs=1e-9)


def test_the_problems_of_visdrone_are_not_empty():
    values = [published.visdrone(marked(seed)[0], *with_regions(seed)[1:]) for seed in range(40)]
    assert sum(0.01 < v["AP"] < 0.99 for v in values) > 10 and sum(v["AR1"] < v["AR500"] for v in values) > 10


def test_of_visdrone_the_best_500_of_an_image_count_whatever_their_class():
    n = 501
    boxes = np.tile([50.0, 50, 10, 10], (n, 1))
    boxes[-1] = 0, 0, 10, 10
    truth = Truth([1], [1, 2], np.zeros(1, int), np.zeros(1, int), boxes[-1:], np.array([100.0]), np.zeros(1, bool))
    labels = np.r_[np.ones(n - 1, int), 0]
    found = Found(np.ones(1, bool), np.zeros(n, int), labels, boxes, np.linspace(1, 0.1, n))
    assert judge(truth, found, protocol=PROTOCOLS["visdrone"]).values["AR500"] == 0
    assert judge(truth, found[np.arange(1, n)], protocol=PROTOCOLS["visdrone"]).values["AR500"] == 1
    beside = judge(truth, found, protocol=replace(PROTOCOLS["visdrone"], beside=600)).alternatives
    assert [row.title for row in beside] == ["all, 600 an image"] and beside[0].values["AR500"] == 1


def test_half_an_area_in_regions_is_enough_to_be_dropped():
    regions = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [100, 0, 5, 10.0]])
    boxes = np.array([[0, 0, 30, 10], [0, 0, 31, 10], [7, 2, 1, 1], [95, 0, 10, 10], [15, 0, 80, 10], [0, 0, 0, 0.0]])
    share = covered(np.zeros(6, int), boxes, np.zeros(3, int), regions)
    assert share.tolist() == pytest.approx([0.5, 15 / 31, 1, 0.5, 0, 0])
    assert covered(np.ones(6, int), boxes, np.zeros(3, int), regions).tolist() == [0] * 6


BOX = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 8)] * 2)


@settings(max_examples=150, deadline=None)
@given(boxes=st.lists(BOX, min_size=1, max_size=4), regions=st.lists(BOX, max_size=4))
def test_the_share_in_regions_is_that_of_their_union(boxes, regions):
    places, of = np.zeros(len(regions), int), np.array(regions, float).reshape(-1, 4)
    share = covered(np.zeros(len(boxes), int), np.array(boxes, float), places, of)
    assert share.tolist() == pytest.approx([published.share_in(box, regions) for box in boxes])


def test_a_region_stands_for_every_class():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [1, 1, 3, 3], [0, 0, 9, 9.0]])
    truth = Truth([1, 2], [1, 2], np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), boxes, np.ones(4), np.ones(4, bool))
    assert region_rows(truth).tolist() == [True, True, False, False]


@pytest.mark.parametrize("seed", range(60))
def test_every_match_is_that_of_pycocotools(seed):
    truth, found = problem(seed)
    ious = (0.5, 0.75)
    for limit in (100, 3):
        for iou, own in zip(ious, match_at(truth, found, ious, limit), strict=True):
            theirs = pycocotools_matches(truth, found, iou, limit)
            assert np.array_equal(own.state, theirs.state) and np.array_equal(own.objects, theirs.objects)


def test_other_sizes_and_overlaps_are_named_and_not_called_cocos():
    own = COCO.changed((0.25, 0.5), (8, 16, 32, 96))
    assert own.name == "own" and "NOT the numbers of coco" in own.title
    assert own.names[:8] == ("AP", "AP25", "AP50", "AP_<8", "AP_8-16", "AP_16-32", "AP_32-96", "AP_>96")
    assert list(own.areas.values())[1:] == [(0, 64), (64, 256), (256, 1024), (1024, 9216), (9216, 1e10)]
    assert "AR_<8" in own.names and "AP75" not in own.names
    assert COCO.changed() is COCO and COCO.changed(COCO_IOUS, (32, 96)).ious == COCO_IOUS
    tiny = PROTOCOLS["tinyperson"].changed(sides=(8, 20))
    assert tiny.names == ("AP50_<8", "AP50_8-20", "AP50_>20", "AP25_<8", "AP25_8-20", "AP25_>20", "AP75_<8",
                          "AP75_8-20", "AP75_>20", "AP50", "AR50_<8", "AR50_8-20", "AR50_>20")
    with pytest.raises(ValueError, match="visdrone"):
        PROTOCOLS["visdrone"].changed((0.5,))


def test_sizes_split_at_cocos_limits_give_cocos_numbers():
    truth, found = problem(17)
    ours, own = judge(truth, found), judge(truth, found, protocol=COCO.changed(sides=(32, 96)))
    assert [ours[f"AP_{s}"] for s in "SML"] == [own[f"AP_{s}"] for s in ("<32", "32-96", ">96")]
    assert 0 < ours["AP"] == own["AP"] and 0 < ours["AR100"] == own["AR100"]


def test_more_detections_stand_beside():
    truth, found = problem(17)
    rows = judge(truth, found, protocol=replace(COCO, beside=300)).alternatives
    row = next(row for row in rows if row.title == "all, 300 a class")
    other = COCO.with_limit(300)
    assert "AP@300" in row.why and row.values == stats_of(HotcocoEngine(truth, found).accumulate(other), other)


def test_the_table_by_class_and_size_holds_what_judging_finds():
    truth, found = problem(17)
    metrics = judge(truth, found)
    sizes = metrics.sizes
    assert sizes.labels == ("small", "medium", "large")
    for a, letter in enumerate("SML"):
        assert sizes.mean[a] == metrics[f"AP_{letter}"]
        for k, row in enumerate(metrics.per_class):
            assert sizes.ap[k, a] == row[f"AP_{letter}"]
            assert (sizes.objects[k, a] > 0) == (row[f"AP_{letter}"] >= 0)
