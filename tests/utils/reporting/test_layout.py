"""Captions avoid small objects and each other; legends, lines and numbers of tracks appear where they should."""

import numpy as np
import pytest
import torch

from utils.reporting.captions import overlaps
from utils.reporting.draw import color, draw_detections, draw_frame, marks_of
from utils.reporting.layout import AUTOMATIC, MOST_SMALL, Layout, Style, line_widths, plan
from utils.reporting.palette import class_colours
from utils.structures import Detections

NAMES = [f"class number {k}" for k in range(30)]


def scene(count: int, sides: tuple[float, float], shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Boxes (count, 4) of a picture of (height, width), sides evenly between two lengths."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(*sides, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (np.array(shape[::-1]) - size)
    return np.concatenate((low, low + size), 1)


def detections(boxes: np.ndarray, labels=None) -> Detections:
    n = len(boxes)
    labels = labels or [k % 5 for k in range(n)]
    return Detections(torch.tensor(boxes), torch.linspace(0.9, 0.3, n), torch.tensor(labels))


def planned(boxes: np.ndarray, shape: tuple[int, int], style: Style = AUTOMATIC, ids=None, labels=None) -> Layout:
    ids = None if ids is None else torch.tensor(ids)
    return plan(marks_of(detections(boxes, labels), NAMES, style, ids), shape, style.line)


def rectangles(layout: Layout) -> np.ndarray:
    return np.array([caption.at for caption in layout.captions]).reshape(-1, 4)


@pytest.mark.parametrize("count, sides", [(1, (5, 9)), (6, (6, 30)), (20, (8, 200)), (40, (20, 150)), (60, (60, 300))])
@pytest.mark.parametrize("shape", [(240, 320), (640, 480), (1080, 1920)])
def test_captions_hide_neither_small_objects_nor_each_other(count, sides, shape):
    for seed in range(3):
        boxes = scene(count, sides, shape, seed)
        layout = planned(boxes, shape)
        at = rectangles(layout)
        assert len(at) > 0
        assert not overlaps(at, boxes[layout.small]).any()
        assert not np.triu(overlaps(at, at), 1).any()
        assert (at[:, :2] >= 0).all() and (at[:, 2:] <= shape[::-1]).all()
        others = overlaps(at, boxes) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert (others <= 0.13).all()  # little of any object
        assert {caption.row % 5 for caption in layout.captions} == {k % 5 for k in range(count)} or layout.legend
        assert 2 * len(at) >= count or layout.legend


def test_the_same_picture_is_laid_out_the_same():
    boxes = scene(30, (10, 100), (480, 640))
    assert rectangles(planned(boxes, (480, 640))).tolist() == rectangles(planned(boxes, (480, 640))).tolist()


def test_many_small_objects_get_a_legend_and_no_text():
    boxes = scene(MOST_SMALL + 20, (8, 20), (600, 800))
    layout = planned(boxes, (600, 800), labels=[0] * 20 + [3] * (MOST_SMALL))
    assert not layout.captions
    assert [words for _, words in layout.legend.rows] == ["class number 0 20", f"class number 3 {MOST_SMALL}"]
    assert [colour for colour, _ in layout.legend.rows] == [color(0), color(3)]
    (left, top), (width, height) = layout.legend.at, layout.legend.size
    free = overlaps(np.array([left, top, left + width, top + height]), boxes)
    assert (free > 0).sum() <= 1  # the least covered spot
    beside = np.concatenate((boxes, [[300, 200, 500, 500]]))  # a large one among them keeps its caption
    assert [c.row for c in planned(beside, (600, 800)).captions] == [len(boxes)]


def test_small_objects_of_a_large_picture_have_captions():
    layout = planned(scene(MOST_SMALL + 8, (20, 30), (2000, 3000)), (2000, 3000))
    assert len(layout.captions) == MOST_SMALL + 8 and not layout.legend


def test_a_legend_is_cut_to_the_picture():
    many = planned(scene(200, (5, 9), (700, 900)), (700, 900), labels=[k % 30 for k in range(200)])
    assert len(many.legend.rows) == 12 and many.legend.rows[-1][1] == "19 more classes"
    low = planned(scene(200, (5, 9), (60, 900)), (60, 900), labels=[k % 30 for k in range(200)])
    assert low.legend.size[1] <= 60 and "more classes" in low.legend.rows[-1][1]
    assert planned(scene(20, (2, 5), (20, 30)), (20, 30)).legend is None  # no room at all


def test_few_objects_have_captions_and_no_legend():
    layout = planned(np.array([[50.0, 60, 200, 200], [300, 300, 310, 310]]), (480, 640))
    assert [c.words for c in layout.captions] == ["class number 0 0.90", "class number 1 0.30"] and not layout.legend


def test_lines_follow_picture_and_box():
    boxes = np.array([[0.0, 0, 8, 8], [0, 0, 300, 300]])
    assert line_widths(boxes, (320, 320)) == [1, 1] and line_widths(boxes, (640, 640)) == [1, 2]
    assert line_widths(boxes, (3000, 4000)) == [1, 7]  # around the small one, nothing of its neighbours is hidden
    assert line_widths(boxes, (3000, 4000), 3) == [3, 3]  # what was asked for wins


def test_text_follows_picture_and_boxes():
    large = np.array([[0.0, 0, 900, 900]])
    heights = [planned(large, shape).text.height for shape in ((240, 320), (480, 640), (3000, 4000))]
    assert heights[0] < heights[1] < heights[2] / 2
    assert planned(large / 20, (3000, 4000)).text.height < heights[2] / 1.5


def test_lines_of_large_boxes_do_not_cross_small_objects():
    image = np.full((480, 640, 3), 90, np.uint8)
    boxes = np.array([[100.0, 100, 400, 400], [90, 200, 112, 215]])
    drawn = draw_detections(image, detections(boxes), NAMES, Style(labels=False))
    assert (drawn[200:215, 90:112] == 90).all()  # the left line of the first runs through it
    assert tuple(drawn[190, 99]) == color(0) and tuple(drawn[207, 89]) == color(1)


def test_numbers_of_tracks_are_written():
    one = np.array([[50.0, 60, 200, 200]])
    assert planned(one, (480, 640), ids=[7]).captions[0].words == "#7 class number 0 0.90"
    assert planned(one, (480, 640), Style(scores=False), ids=[7]).captions[0].words == "#7 class number 0"
    assert planned(one, (480, 640), Style(labels=False), ids=[7]).captions[0].words == "#7"
    crowd = scene(30, (8, 20), (600, 800))
    layout = planned(crowd, (600, 800), ids=list(range(30)))
    assert layout.legend and len(layout.captions) > 20 and all(c.words == f"#{c.row}" for c in layout.captions)
    black = np.zeros((480, 640, 3), np.uint8)
    plain, tracked = (draw_detections(black, detections(one), NAMES, ids=ids) for ids in (None, torch.tensor([7])))
    assert (plain != tracked).any()


def test_colours_of_a_picture_differ():
    assert len(set(class_colours([0, 20, 40, 60, 7, 27]).values())) == 6
    assert len(set(class_colours(range(20)).values())) == 20
    assert class_colours([3, 25])[3] == class_colours([3])[3] and class_colours([25])[25] == class_colours([5])[5]
    assert len(class_colours(range(50))) == 50  # more than there are colours


@pytest.mark.parametrize("line", [1, 2, 5])
def test_a_line_at_the_edge_stays_in_the_picture(line):
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_frame(picture, (-5, -5, 85, 65), (1, 2, 3), line)
    assert all(tuple(picture[y, x]) == (1, 2, 3) for y, x in ((0, 0), (30, 0), (30, 79), (59, 40)))
    assert not picture[line:-line, line:-line].any() and picture[:line].all()
    picture[:] = 0
    draw_frame(picture, (20, 20, 40, 40), (1, 2, 3), line)
    assert not picture[20:40, 20:40].any() and picture[20 - line:20, 20 - line:40 + line].all()
    assert picture.any(2).sum() == (20 + 2 * line) ** 2 - 20 ** 2
