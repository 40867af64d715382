"""VOC's AP against the kit's algorithm written out plainly, and by hand where a rule decides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.collector import Collector
from engine.evaluation.metrics import overlaps
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.voc import VOC_RULES, VocClass, VocMetrics, format_voc_table, voc_metrics
from engine.evaluation.plots import plot_voc_curve
from tests.engine.evaluation.voc_kit import Rows, kit_ap
from tests.utils.reporting.test_plots import shape
from utils.structures import Detections
from utils.truth import Truth

Box = list[float]


def truth_of(rows: list[tuple[int, int, Box, bool]], images: int, classes: int) -> Truth:
    """Rows of image, class, x, y, w, h, difficult."""
    boxes = np.array([row[2] for row in rows], float).reshape(-1, 4)
    image, label = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    return Truth(list(range(images)), list(range(classes)), image, label, boxes, boxes[:, 2:].prod(1),
                 np.array([row[3] for row in rows], bool))


def judged(truth: Truth, found: dict[int, list[tuple[int, Box, float]]], rule: str) -> VocMetrics:
    """found: image -> rows of class, x, y, w, h, score."""
    return voc_metrics(truth, collected(truth, found).found(), rule)


def collected(truth: Truth, found: dict[int, list[tuple[int, Box, float]]]) -> Collector:
    collector = Collector(truth)
    for image, rows in found.items():
        rows = sorted(rows, key=lambda row: -row[2])
        boxes = torch.tensor([row[1] for row in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        collector.update([image], [Detections(boxes, torch.tensor([row[2] for row in rows], dtype=torch.float64),
                                              torch.tensor([row[0] for row in rows], dtype=torch.int64))])
    return collector


def by_kit(truth: Truth, collector: Collector, rule: str) -> list[float | None]:
    """AP of each class by the kit, from boxes in its way of counting; None for a class without objects."""
    found = collector.found()
    values: list[float | None] = []
    for k in range(len(truth.category_ids)):
        objects: dict = {}
        for image, label, (x, y, w, h), hard in zip(truth.image.tolist(), truth.label.tolist(), truth.boxes.tolist(),
                                                    truth.crowd.tolist(), strict=True):
            if label == k:
                objects.setdefault(image, []).append(((x + 1, y + 1, x + w, y + h), hard))
        rows: Rows = [(image, score, (x + 1, y + 1, x + w, y + h)) for image, label, score, (x, y, w, h) in
                      zip(found.images.tolist(), found.labels.tolist(), found.scores.tolist(),
                          found.boxes.tolist(), strict=True) if label == k]
        counts = any(not hard for boxes in objects.values() for _, hard in boxes)
        values.append(kit_ap(objects, rows, rule) if counts else None)
    return values


# Few places, sizes and scores, so that equal overlaps, an IoU of exactly 0.5 and equal scores are common. Eighths of a
# pixel are exact, in binary and in the thousandths that detections are rounded to.
sides = st.sampled_from([1.0, 2.0, 3.0, 4.0, 8.0, 2.125])
places = st.sampled_from([0.0, 1.0, 2.0, 4.0, 0.125, 7.0])
boxes = st.tuples(places, places, sides, sides).map(list)
objects = st.tuples(st.integers(0, 3), st.integers(0, 2), boxes, st.sampled_from([False, False, True]))
detections = st.tuples(st.integers(0, 2), boxes, st.sampled_from([0.25, 0.5, 0.75, 0.9]))


@pytest.mark.parametrize("cases", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_ap_is_that_of_the_kit(cases):
    settings(max_examples=cases, deadline=None)(given(
        st.lists(objects, max_size=14), st.dictionaries(st.integers(0, 3), st.lists(detections, max_size=14)),
        st.sampled_from(list(VOC_RULES)))(compare_with_the_kit))()


def compare_with_the_kit(rows, found, rule):
    truth = truth_of(rows, 4, 4)
    collector = collected(truth, found)
    expected = by_kit(truth, collector, rule)
    metrics = voc_metrics(truth, collector.found(), rule)
    for row, ap in zip(metrics.per_class, expected, strict=True):
        assert (-1 if ap is None else pytest.approx(ap, abs=1e-12)) == row.AP
    defined = [ap for ap in expected if ap is not None]
    assert (pytest.approx(np.mean(defined), abs=1e-12) if defined else -1) == metrics.AP


@pytest.mark.parametrize("rule", VOC_RULES)
def test_crowded_images_are_those_of_the_kit_in_small_parts(rule, monkeypatch):
    """Noise around many objects: close overlaps, second hits, and more pairs than are compared at a time."""
    random = np.random.default_rng(3)
    rows, found = [], {}
    for image in range(12):
        for _ in range(random.integers(0, 20)):
            x, y, w, h = random.integers(0, 90, 2).tolist() + random.integers(4, 30, 2).tolist()
            label = int(random.integers(3))
            rows.append((image, label, [x, y, w, h], bool(random.random() < 0.2)))
            for _ in range(random.integers(0, 4)):
                shift = (random.normal(0, 2, 4) * 8).round() / 8
                box = [x + shift[0], y + shift[1], max(w + shift[2], 1), max(h + shift[3], 1)]
                found.setdefault(image, []).append((label, box, float(random.integers(1, 40) / 40)))
    truth = truth_of(rows, 12, 3)
    whole = judged(truth, found, rule)
    assert [row.AP for row in whole.per_class] == pytest.approx(by_kit(truth, collected(truth, found), rule))
    assert 0.2 < whole.AP < 0.95
    monkeypatch.setattr(overlaps, "PAIRS", 7)
    assert judged(truth, found, rule).AP == whole.AP


def one(found: list[tuple[int, Box, float]], objects: list[tuple[Box, bool]], rule: str = "voc") -> VocClass:
    """The numbers of a class in one image."""
    truth = truth_of([(0, 0, box, hard) for box, hard in objects], 1, 1)
    return judged(truth, {0: found}, rule).per_class[0]


def test_a_second_hit_is_false_even_where_another_object_is_free():
    near = [([0, 0, 10, 10], False), ([3, 0, 10, 10], False)]
    row = one([(0, [0, 0, 10, 10], 0.9), (0, [1, 0, 10, 10], 0.8)], near)
    assert row.AP == 0.5 and row.recall == 0.5 and row.detections == 2


def test_a_difficult_object_absorbs_only_what_overlaps_it_most():
    both = [([0, 0, 10, 10], False), ([2, 0, 10, 10], True)]
    absorbed = one([(0, [3, 0, 10, 10], 0.9), (0, [3, 0, 10, 10], 0.85), (0, [0, 0, 10, 10], 0.8)], both)
    assert absorbed.AP == 1 and (absorbed.labels, absorbed.difficult, absorbed.detections) == (1, 1, 1)
    second = one([(0, [0, 0, 10, 10], 0.9), (0, [0, 0, 10, 10], 0.8)], both)  # overlaps the difficult one by 2 / 3 too
    assert second.AP == 1 and second.detections == 2


def test_a_difficult_object_absorbs_by_iou_where_cocos_crowd_absorbs_what_lies_inside():
    objects = [([0, 0, 100, 100], True), ([200, 0, 10, 10], False)]
    found = [(0, [10, 10, 10, 10], 0.9), (0, [200, 0, 10, 10], 0.8)]
    assert one(found, objects).AP == 0.5
    truth = truth_of([(0, 0, box, hard) for box, hard in objects], 1, 1)
    assert pytest.approx(1) == judge(truth, collected(truth, {0: found}).found())["AP50"]


def test_an_iou_of_exactly_a_half_is_not_enough():
    assert one([(0, [0, 0, 10, 5], 0.9)], [([0, 0, 10, 10], False)]).AP == 0
    assert one([(0, [0, 0, 10, 5.001], 0.9)], [([0, 0, 10, 10], False)]).AP == 1


def test_the_kits_count_of_pixels_is_the_span_of_the_reader():
    """A box 1..10 of a VOC file has 10 pixels a side: the kit's `+ 1` and the span (0, 10) agree."""
    iou = overlaps._iou(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 10, 10]]), np.array([False]))
    assert iou == pytest.approx([50 / 150])


def test_both_rules_by_hand():
    """Of 2 objects one is found second: precision 0, 1/2 at recall 0, 1/2."""
    objects = [([0, 0, 10, 10], False), ([50, 0, 10, 10], False)]
    found = [(0, [30, 0, 10, 10], 0.9), (0, [0, 0, 10, 10], 0.8)]
    assert pytest.approx(6 * 0.5 / 11) == one(found, objects, "voc07").AP  # recalls 0 to 0.5
    assert one(found, objects, "voc").AP == 0.25


def test_classes_without_objects_that_count_are_left_out_and_those_without_detections_are_zero():
    truth = truth_of([(0, 0, [0, 0, 9, 9], False), (0, 1, [0, 0, 9, 9], False), (0, 2, [0, 0, 9, 9], True)], 1, 4)
    metrics = judged(truth, {0: [(0, [0, 0, 9, 9], 0.5), (2, [0, 0, 9, 9], 0.5), (3, [0, 0, 9, 9], 0.5)]}, "voc07")
    assert [row.AP for row in metrics.per_class] == [pytest.approx(1), 0, -1, -1] and pytest.approx(0.5) == metrics.AP
    table = format_voc_table(metrics, ["cat", "dog", "cow", "a very long name of a class"])
    lines = [line.split() for line in table.splitlines()]
    assert lines[0][:3] == ["VOC", "2007:", "11-point"]
    assert lines[2] == ["all", "1", "2", "1", "2", "0.5000", "0.5000"]
    assert lines[3] == ["cat", "1", "1", "0", "1", "1.0000", "1.0000"]
    assert lines[4] == ["dog", "1", "1", "0", "0", "0.0000", "0.0000"] and len(lines) == 6
    assert "2 of 4 classes" in table and "difficult: keep" not in table
    assert "difficult: keep" in format_voc_table(metrics, ["a", "b", "c", "d"], kept=True)


@pytest.mark.filterwarnings("error")
def test_nothing_at_all_is_undefined_and_drawn(tmp_path):
    metrics = judged(truth_of([], 2, 2), {}, "voc")
    assert metrics.AP == -1 and format_voc_table(metrics, ["a", "b"]).splitlines()[2].split()[-2:] == ["-", "-"]
    plot_voc_curve(metrics, ["a", "b"], tmp_path / "none.png")
    metrics = judged(truth_of([(0, 1, [0, 0, 9, 9], False)], 2, 2), {0: [(1, [0, 0, 9, 9], 0.5)]}, "voc")
    assert metrics.per_class[1].curve.tolist() == [1] * 101
    plot_voc_curve(metrics, ["a", "b"], tmp_path / "one.png")
    assert shape(tmp_path / "none.png") and shape(tmp_path / "one.png")


def test_annotations_marked_ignore_act_like_difficult_ones():
    truth = truth_of([(0, 0, [0, 0, 9, 9], False), (0, 0, [30, 0, 9, 9], False)], 1, 1)
    truth.marked = np.array([False, True])
    row = judged(truth, {0: [(0, [30, 0, 9, 9], 0.9), (0, [0, 0, 9, 9], 0.5)]}, "voc").per_class[0]
    assert (row.labels, row.difficult, row.AP) == (1, 1, 1)
