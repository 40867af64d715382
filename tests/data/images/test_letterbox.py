import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.images.letterbox import fit_side, forward_boxes, letterbox, place, plan_letterbox, plan_rect

sides = st.integers(1, 3000)


@given(height=sides, width=sides, frame=st.tuples(st.integers(32, 800), st.integers(32, 800)), auto=st.booleans(),
       scaleup=st.booleans(), seed=st.integers(0, 99))
def test_inverse_undoes_forward_and_boxes_stay_in_frame(height, width, frame, auto, scaleup, seed):
    inner, transform = plan_letterbox((height, width), frame, auto=auto, scaleup=scaleup)
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (4, 2, 2)), 1) * (width, height)
    boxes = torch.from_numpy(corners.reshape(-1, 4)).double()
    there = transform.forward(boxes)
    assert torch.allclose(transform.inverse(there), boxes, atol=1e-6)
    left, top = transform.pad
    limits = torch.tensor([left, top, left + inner[1], top + inner[0]])
    assert (there >= limits[[0, 1, 0, 1]] - 1e-6).all() and (there <= limits[[2, 3, 2, 3]] + 1e-6).all()
    assert left + inner[1] <= transform.input[1] <= frame[1] and top + inner[0] <= transform.input[0] <= frame[0]


@given(height=sides, width=sides, frame=st.integers(32, 800))
def test_the_whole_image_lands_exactly_on_its_pixels(height, width, frame):
    inner, transform = plan_letterbox((height, width), frame)
    box = forward_boxes(transform, np.array([[0, 0, width, height]]))[0]
    left, top = transform.pad
    assert box == pytest.approx([left, top, left + inner[1], top + inner[0]], abs=1e-3)
    assert max(inner) == frame


def test_pixels_and_boxes_move_together():
    image = np.zeros((37, 53, 3), np.uint8)
    image[10:20, 30:40] = 255
    moved, transform = letterbox(image, 640)
    x1, y1, x2, y2 = forward_boxes(transform, np.array([[30, 10, 40, 20]]))[0]
    inside = np.argwhere((moved > 127).all(2))  # a linear edge crosses half its height at the box's border
    assert inside.min(0) == pytest.approx([y1, x1], abs=1)
    assert inside.max(0) + 1 == pytest.approx([y2, x2], abs=1)


def test_rectangular_frames_do_not_enlarge_the_image():
    inner, transform = plan_rect((480, 640), 640, (512, 672))
    assert inner == (480, 640) and transform.scale == (1.0, 1.0) and transform.pad == (16, 16)
    inner, transform = plan_rect((640, 640), 640, (320, 640))  # a frame too small still takes the image
    assert inner == (320, 320) and transform.input == (320, 640)


def test_antialias_averages_where_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255
    inner, transform = plan_letterbox((64, 64), 16)
    assert np.unique(place(stripes, inner, transform, antialias=True)).tolist() == [64]
    assert np.unique(place(stripes, inner, transform)).tolist() == [0]


def test_no_side_vanishes():
    assert fit_side((1, 5000), 640) == (1, 640)
    assert letterbox(np.zeros((1, 3000, 3), np.uint8), 64)[0].shape == (64, 64, 3)
