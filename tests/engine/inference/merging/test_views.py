"""Rules for parts at the borders of windows, each on boxes that show what it is for."""

import numpy as np
import pytest
import torch

from engine.inference.merging.views import METHODS, WHOLE, Boxes, merge_views, shown_large, shown_whole
from utils.structures import Detections

SIZE = (100, 180)  # of the image
WINDOWS = np.array([[0, 0, 100, 100], [80, 0, 180, 100]])


def detections(*rows: tuple) -> Detections:
    """Rows x1, y1, x2, y2, score[, label] in the frame of their view, best first."""
    rows = sorted(rows, key=lambda row: -row[4])
    table = torch.tensor([row[:5] for row in rows], dtype=torch.float32).view(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.tensor([row[5] if len(row) > 5 else 0 for row in rows]).long())


def found(left=(), right=(), full=None) -> Boxes:
    views = [detections(*left), detections(*right)]
    return Boxes.of_views(views, WINDOWS, SIZE, None if full is None else detections(*full))


def merged(boxes: Boxes, method: str) -> list[list[float]]:
    """x1, y1, x2, y2, score of each."""
    out = merge_views(boxes, WINDOWS, SIZE, method)
    return np.concatenate((out.boxes, out.scores[:, None]), 1).round(3).tolist()


def test_boxes_come_to_the_image_and_know_where_they_were_cut():
    boxes = found([(0, 10, 20, 20, 0.9), (90, 10, 99.5, 20, 0.8)], [(0.5, 10, 19, 20, 0.7), (90, 0, 100, 10, 0.6)],
                  [(5, 5, 180, 100, 0.5)])
    assert boxes.boxes.tolist() == pytest.approx(np.array(
        [[0, 10, 20, 20], [90, 10, 99.5, 20], [80.5, 10, 99, 20], [170, 0, 180, 10], [5, 5, 180, 100]]))
    assert boxes.view.tolist() == [0, 0, 1, 1, WHOLE]
    assert boxes.cut.tolist() == [False, True, True, False, False]  # the image's own borders cut nothing


def test_a_part_yields_to_the_window_that_shows_more():
    """The first box ends at the border, and lies inside the other window; the last one begins before that."""
    boxes = found([(85, 10, 100, 20, 0.9), (60, 40, 100, 50, 0.8), (70, 70, 90, 80, 0.7)])
    assert shown_whole(boxes, WINDOWS, SIZE).tolist() == [True, False, False]


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_wins_over_a_surer_part(method):
    boxes = found([(85, 10, 100, 20, 0.9)], [(5, 10, 40, 20, 0.4)])
    assert merged(boxes, method) == [[85, 10, 120, 20, 0.4]]


def test_parts_are_put_together():
    """An object longer than the overlap, which each window shows a half of."""
    boxes = found([(50, 10, 100, 30, 0.9)], [(0, 11, 25, 30, 0.5)])
    assert merged(boxes, "nmm") == [[50, 10, 105, 30, 0.9]]
    unsure = found([(50, 10, 100, 30, 0.9)], [(0, 11, 25, 30, 0.2)])
    assert merged(unsure, "nmm") == [[50, 10, 100, 30, 0.9]]
    assert len(merged(boxes, "nms")) == 2


def test_what_is_no_part_adds_nothing_to_a_box():
    """A box claims others of its own window, and does not grow by them."""
    boxes = found([(10, 10, 30, 30, 0.9), (5, 5, 40, 40, 0.8)])
    assert merged(boxes, "nmm") == [[10, 10, 30, 30, 0.9]]


def test_large_objects_are_left_to_the_whole_image():
    part, whole = (0, 20, 100, 80, 0.9), (0, 20, 150, 80, 0.3)
    assert shown_large(found([part], full=[whole]), WINDOWS).tolist() == [True, False]
    assert shown_large(found([part], full=[(*whole[:4], 0.2)]), WINDOWS).tolist() == [False, False]
    assert shown_large(found([part], full=[(50, 20, 120, 80, 0.5)]), WINDOWS).tolist() == [False, False]
    assert shown_large(found([part], full=[(*whole, 1)]), WINDOWS).tolist() == [False, False]
    for method in METHODS:
        assert merged(found([part], full=[whole]), method) == [[0, 20, 150, 80, 0.3]]


def test_duplicates_are_counted_across_views():
    boxes = found([(85, 10, 95, 20, 0.9), (85, 10, 95, 21, 0.8)], [(5, 10, 15, 20, 0.7), (5, 10, 15, 20, 0.6, 1)])
    assert boxes.duplicates() == 1  # not those of one window, nor of another class
    assert found([(85, 10, 95, 20, 0.9)], [(5, 10, 15, 20, 0.2)]).duplicates() == 0  # too unsure to be seen
    for method in METHODS:
        out = merge_views(boxes, WINDOWS, SIZE, method)
        assert out.duplicates() == 0 and sorted(set(out.labels.tolist())) == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_across_classes_the_best_says_which(method):
    boxes = found([(85, 10, 95, 20, 0.6, 2)], [(5, 10, 15, 20, 0.7, 1)])
    assert len(merge_views(boxes, WINDOWS, SIZE, method)) == 2
    out = merge_views(boxes, WINDOWS, SIZE, method, agnostic=True)
    assert out.labels.tolist() == [1] and out.scores.tolist() == pytest.approx([0.7])


def test_detections_are_sorted_and_limited():
    boxes = found([(10, 10, 20, 20, 0.3)], [(50, 10, 60, 20, 0.7)])
    assert boxes.detections().scores.tolist() == pytest.approx([0.7, 0.3])
    assert boxes.detections(1).boxes.tolist() == [[130, 10, 140, 20]]
    nothing = Boxes.of_views([], np.zeros((0, 4), np.int64), SIZE)
    assert len(merge_views(nothing, np.zeros((0, 4), np.int64), SIZE, "nmm")) == 0
