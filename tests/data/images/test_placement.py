"""`data.images.placement`: where images lie in frames, for every fit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.images.letterbox import plan_letterbox
from data.images.placement import Placement
from utils.frame import Frame

sides = st.integers(1, 3000)
FRAMES = [Frame(), Frame(multiple=64, pad="corner"), Frame(size=(96, 160), multiple=1),
          Frame(fit="stretch", size=(300, 200), multiple=1), Frame(fit="shortest", short=80, long=133, pad="corner"),
          Frame(fit="shortest", short=60, long=60, multiple=8)]
frames = st.sampled_from(FRAMES)


def _placement(frame: Frame) -> Placement:
    return Placement.of(frame, None if frame.size or frame.fit == "shortest" else 192)


@given(original=st.tuples(sides, sides), frame=frames, way=st.sampled_from(["alone", "in_frame", "on_canvas"]),
       seed=st.integers(0, 99))
def test_boxes_return_and_stay_on_their_image(original, frame, way, seed) -> None:
    placement = _placement(frame)
    canvas = placement.batch_frame(np.array([original]))
    inner, transform = placement.alone(original) if way == "alone" else getattr(placement, way)(original, canvas)
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (4, 2, 2)), 1) * original[::-1]
    boxes = torch.from_numpy(corners.reshape(-1, 4)).double()
    there = transform.forward(boxes)
    torch.testing.assert_close(transform.inverse(there), boxes, rtol=0, atol=1e-6)
    left, top = transform.pad
    assert (there >= torch.tensor([left, top, left, top]) - 1e-6).all()
    assert (there <= torch.tensor([left + inner[1], top + inner[0]] * 2) + 1e-6).all()
    assert top + inner[0] <= transform.input[0] and left + inner[1] <= transform.input[1]
    whole = transform.forward(torch.tensor([[0.0, 0, original[1], original[0]]], dtype=torch.float64))[0].tolist()
    assert whole == pytest.approx([left, top, left + inner[1], top + inner[0]])
    assert frame.pad == "centre" or (left, top) == (0, 0)
    assert frame.size in (None, transform.input)
    assert all(side % frame.multiple == 0 for side in transform.input)


@given(original=st.tuples(sides, sides), frame=frames)
def test_the_aspect_is_kept_but_where_it_is_stretched(original, frame) -> None:
    inner, _ = _placement(frame).alone(original)
    if frame.fit == "stretch":
        assert inner == frame.size
    else:  # one scale explains both sides, to whole pixels and at least one
        least = [(a - 0.5 if a > 1 else 0) / b for a, b in zip(inner, original, strict=True)]
        most = [(a + 0.5) / b for a, b in zip(inner, original, strict=True)]
        assert max(least) <= min(most) + 1e-9


@given(original=st.tuples(sides, sides))
def test_the_shorter_side_decides_unless_the_longer_is_too_long(original) -> None:
    inner, transform = Placement.of(Frame(fit="shortest", pad="corner")).alone(original)
    assert max(inner) <= 1333 and min(inner) <= 800 and (max(inner) == 1333 or min(inner) == 800)
    assert all(0 <= outer - side < 32 for outer, side in zip(transform.input, inner, strict=True))


@given(originals=st.lists(st.tuples(sides, sides), min_size=1, max_size=6), frame=frames)
def test_a_batch_gets_the_smallest_frame_that_holds_its_images(originals, frame) -> None:
    placement = _placement(frame)
    outer = placement.batch_frame(np.array(originals))
    fitted = [placement.fitted(original) for original in originals]
    assert placement.fitted_all(np.array(originals)).tolist() == [list(size) for size in fitted]
    assert all(placement.in_frame(original, outer)[1].input == outer for original in originals)
    if frame.fits_images:
        largest = np.array(fitted).max(0)
        assert (outer >= largest).all() and (outer - largest < frame.multiple).all()
        assert [placement.in_frame(original, outer)[0] for original in originals] == fitted


@given(original=st.tuples(sides, sides))
def test_a_frame_too_small_still_takes_an_image(original) -> None:
    placement = Placement.of(Frame(fit="shortest", short=500, long=700, pad="corner"))
    inner, transform = placement.in_frame(original, (320, 352))
    fitted = placement.fitted(original)
    assert inner == fitted or (inner, transform) == plan_letterbox(original, (320, 352), corner=True)
    assert inner[0] <= 320 and inner[1] <= 352 and transform.input == (320, 352)


def test_in_training_letterboxed_images_fill_their_frame_and_others_lie_as_in_evaluation() -> None:
    assert Placement.of(Frame(), 64).on_canvas((32, 64), (96, 128))[0] == (64, 128)
    assert Placement.of(Frame(), 64).in_frame((32, 64), (96, 128))[0] == (32, 64)
    placement = Placement.of(Frame(fit="shortest", short=32, long=64))
    assert placement.on_canvas((32, 64), (96, 128)) == placement.in_frame((32, 64), (96, 128))
