"""Drawing changes the picture where it should and never fails on odd boxes or names."""

import numpy as np
import pytest
import torch

from utils.reporting import fonts
from utils.reporting.draw import Style, class_name, color, draw_box, draw_detections
from utils.structures import Detections

GREY = np.full((80, 120, 3), 100, np.uint8)


def found(boxes, labels=None) -> Detections:
    n = len(boxes)
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(n, 4), torch.linspace(0.9, 0.5, n),
                      torch.tensor(labels or [0] * n, dtype=torch.int64))


def test_twenty_colours_that_differ_then_again():
    assert len({color(i) for i in range(20)}) == 20
    assert color(20) == color(0)
    assert all(0 <= v <= 255 for i in range(20) for v in color(i))


def test_the_input_stays_and_the_box_is_there():
    drawn = draw_detections(GREY, found([[20, 40, 60, 70]]), ["cat"], Style(1, labels=False))
    assert (GREY == 100).all()
    assert tuple(drawn[55, 19]) == tuple(drawn[70, 40]) == tuple(drawn[39, 60]) == color(0)
    assert (drawn[40:70, 20:60] == 100).all()  # the line lies around the box: its inside stays to be seen
    assert (draw_detections(GREY, found([]), ["cat"]) == GREY).all()


def test_the_surest_is_on_top():
    drawn = draw_detections(GREY, found([[20, 40, 60, 70], [20, 40, 60, 70]], [1, 2]), "abc", Style(labels=False))
    assert tuple(drawn[55, 19]) == color(1)


def test_label_flags_change_what_is_written():
    detections = found([[20, 40, 60, 70]])
    pictures = [draw_detections(GREY, detections, ["cat"], Style(2, labels, scores)).tobytes()
                for labels, scores in ((True, True), (True, False), (False, True))]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("box", [[-1e9, -1e9, 1e9, 1e9], [0, 0, 0, 0], [119, 79, 300, 300], [-50, -50, -40, -40],
                                 [5.5, 1, 6, 2]])
@pytest.mark.parametrize("name", ["x", "a name far too long for a picture of this size", "赤血球", ""])
def test_nothing_is_too_odd_to_draw(box, name):
    picture = GREY.copy()
    draw_box(picture, box, color(3), class_name([name], 0), 3)
    assert picture.shape == GREY.shape
    draw_box(np.zeros((4, 4, 3), np.uint8), box, color(3), "larger than the picture", 3)


def test_names_become_readable():
    for name in ("Thrombozyt é", "赤血球", "красный шар"):
        assert class_name([name], 0) == name
    assert class_name(["a\x1b[31m\nb "], 0) == "a\\x1b[31m b"
    assert class_name([" \t"], 0) == "class 0"
    assert class_name(["cat"], 7) == "class 7"
    assert class_name(["traffic light"], 0) == "traffic light"


def ink(text: str) -> np.ndarray:
    picture = np.zeros((60, 400, 3), np.uint8)
    fonts.put_text(picture, text, (5, 40), 1.0, (255, 255, 255), 1)
    return picture


@pytest.mark.parametrize("builtin", [True, False])
def test_scripts_are_drawn_as_themselves(monkeypatch, builtin):
    """Each of two names of one script has a picture of its own, and none is that of question marks."""
    monkeypatch.setattr(fonts, "UNICODE", builtin and fonts.UNICODE)
    for call in (fonts.opencv_draws, fonts.drawable):
        call.cache_clear()
    for first, second in (("красный", "чёрный"), ("αβγ", "δεζ"), ("圆形", "方块"), ("둥근", "원형"), ("🚗", "🚲")):
        pictures = [ink(first), ink(second), ink("?" * len(first))]
        assert all(p.any() for p in pictures)
        assert len({p.tobytes() for p in pictures}) == 3, first
        (width, above), below = fonts.text_size(first, 1.0, 1)
        rows, columns = np.nonzero(pictures[0].any(2))
        assert abs(columns.max() - 5 - width) < 8 and rows.max() <= 40 + below and rows.min() >= 40 - above - 8
    for call in (fonts.opencv_draws, fonts.drawable):
        call.cache_clear()


def test_what_no_font_has_is_spelled():
    def ascii_only(letter: str) -> bool:
        return letter.isascii()

    assert fonts.spelled("圆 car", ascii_only) == "u5706 car"
    assert fonts.spelled("둥근", ascii_only) == "dunggeun" and fonts.spelled("é", ascii_only) == "e"
    assert fonts.spelled("шар", ascii_only) == "shaaer" and fonts.spelled("🚗", ascii_only) == "automobile"


def test_text_that_leaves_the_picture_is_cut(monkeypatch):
    monkeypatch.setattr(fonts, "UNICODE", False)
    for call in (fonts.opencv_draws, fonts.drawable):
        call.cache_clear()
    for origin in ((-30, 5), (390, 55), (500, 500), (5, -20)):
        fonts.put_text(np.zeros((60, 400, 3), np.uint8), "красный", origin, 1.0, (255, 255, 255), 1)
    for call in (fonts.opencv_draws, fonts.drawable):
        call.cache_clear()


def test_reversed_channels_and_grey_views_are_taken():
    rgb_view = GREY[..., ::-1]  # not contiguous
    assert draw_detections(rgb_view, found([[20, 40, 60, 70]]), ["cat"]).shape == GREY.shape
