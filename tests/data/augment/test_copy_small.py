"""Copies of small objects: which, where, their exact labels, and that every pixel is one of the frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.copy_small import COPIES, MOST, copied_pixels, copy_small_objects, draw_copied, source_pixels
from data.augment.geometry import Copy, Labels, MosaicLayer, single_tile
from data.augment.plan import Paste, Scene
from data.augment.plan_batch import pack_plans
from data.augment.policies.yolo import YoloPolicy
from data.augment.render import plan_labels, render_plan
from data.augment.render_device import render
from data.loading.device_loader import DeviceImages, copies_needed
from tests.data.augment.test_render_device import SIZES, Store
from tests.data.pictures import random_boxes, smooth

S = 96
EVERY = Paste(1.0, 7)
ALONE = (MosaicLayer((single_tile(0, (S, S), S),), np.eye(3), 1.0),)


def labels(*boxes, ignore=None):
    return Labels(np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)),
                  np.zeros(len(boxes), bool) if ignore is None else np.array(ignore))


def touching(a, b) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_a_copy_is_its_source_to_the_pixel_and_its_box_moves_with_it():
    frame = smooth(S, S, 0)
    copies = (Copy((50, 60, 60, 70), (10, 20, 20, 30), False), Copy((70, 10, 78, 18), (10, 20, 20, 30), True))
    drawn = draw_copied(frame.copy(), copies)
    want = frame.copy()
    want[60:70, 50:60] = frame[20:30, 10:20]  # as large: the patch itself
    rows = [20, 21, 23, 24, 25, 26, 28, 29]  # floor((k + 0.5) * 10 / 8), by hand
    want[10:18, 70:78] = frame[rows][:, [r - 10 for r in rows]][:, ::-1]
    assert np.array_equal(drawn, want)
    to, source = copied_pixels(copies, S)
    flat = frame.reshape(-1, 3).copy()
    flat[to] = flat[source]
    assert np.array_equal(flat.reshape(frame.shape), want)


def test_boxes_of_copies_are_exact():
    """Inside its pixels the box lies as that of the source, enlarged as they are, and mirrored with them."""
    given_ = labels((10.25, 20.5, 19.5, 31.75))
    found = copy_small_objects(EVERY, given_, ALONE, S)
    assert 1 <= len(found.copied) <= COPIES and len(found) == 1 + len(found.copied)
    assert np.array_equal(found.boxes[:1], given_.boxes) and set(found.labels.tolist()) == {0}
    for box, copy in zip(found.boxes[1:], found.copied, strict=True):
        x1, y1, x2, y2 = copy.place
        assert copy.source == (10, 20, 20, 32)
        across, down = (x2 - x1) / 10, (y2 - y1) / 12
        left, right = (0.5, 9.75) if copy.flip else (0.25, 9.5)
        assert np.allclose(box, (x1 + left * across, y1 + 0.5 * down, x1 + right * across, y1 + 11.75 * down))
        assert 8 <= x2 - x1 <= 12 and 10 <= y2 - y1 <= 14


@pytest.mark.parametrize("case, given_", {
    "32 px": labels((10, 10, 42, 42)), "cut off by the frame": labels((0, 10, 12, 22)),
    "inside another": labels((10, 10, 20, 20), (8, 8, 60, 60)), "thin": labels((10, 10, 10.5, 20)),
    "crowd": labels((10, 10, 20, 20), ignore=[True]),
    "in a crowd": labels((10, 10, 20, 20), (0, 0, 60, 60), ignore=[False, True]),
    "no room": labels((10, 10, 20, 20), (20, 0, 96, 96), (0, 20, 20, 96), (0, 0, 9, 20))}.items())
def test_what_is_not_copied(case, given_):
    found = copy_small_objects(EVERY, given_, ALONE, S)
    assert not found.copied and np.array_equal(found.boxes, given_.boxes)


def test_no_more_copies_than_the_most():
    boxes = [(x, y, x + 3, y + 3) for x in range(4, 600, 60) for y in range(4, 600, 60)]
    layer = (MosaicLayer((single_tile(0, (640, 640), 640),), np.eye(3), 1.0),)
    found = copy_small_objects(EVERY, labels(*boxes), layer, 640)
    assert len(found.copied) == MOST
    share = len(copy_small_objects(Paste(0.3, 1), labels(*boxes), layer, 640).copied) / 100
    assert 0.3 < share < 0.9  # 0.3 objects, two copies each


@given(seed=st.integers(0, 2**32), share=st.floats(0, 1), turned=st.booleans(), ignored=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_copies_of_any_frame(seed, share, turned, ignored):
    rng = np.random.default_rng(seed)
    sizes = [(60, 90), (90, 60), (50, 50), (120, 70)]
    policy = YoloPolicy(degrees=20 if turned else 0, mixup=0.3, copy_paste_small=share or 0.1, mosaic=0.7)
    parts = [Labels(random_boxes(rng, 8, *s), np.arange(8), np.arange(8) < ignored) for s in sizes]
    plan = policy.draw(rng, Scene(0, S, sizes.__getitem__, lambda k: rng.integers(0, 4, k).tolist()))
    read = parts.__getitem__, sizes.__getitem__, S, policy, lambda i: i == 2
    found, before = plan_labels(plan, *read), plan_labels(replace(plan, small=None), *read)
    n, copied = len(before), found.copied
    assert len(found) == n + len(copied) and np.array_equal(found.boxes[:n], before.boxes)
    again = plan_labels(plan, *read)
    assert np.array_equal(again.boxes, found.boxes) and again.copied == copied
    assert not found.ignore[n:].any()
    obstacles = [tuple(box) for box in before.boxes]
    white, _ = render_plan(plan, lambda i, *_: (np.full((*sizes[i], 3), 255, np.uint8), (1.0, 1.0)), S,
                           replace(policy, fill=0, hsv_h=0, hsv_s=0, hsv_v=0))
    for box, label, copy in zip(found.boxes[n:], found.labels[n:], copied, strict=True):
        x1, y1, x2, y2 = copy.place
        assert 0 <= x1 < x2 <= S and 0 <= y1 < y2 <= S
        assert not any(touching(copy.place, other) for other in obstacles)
        assert (box[:2] >= (x1 - 1e-4, y1 - 1e-4)).all() and (box[2:] <= (x2 + 1e-4, y2 + 1e-4)).all()
        assert label in before.labels
        if len(plan.layers) == 1:  # on an image, not on the fill; the middle, since edges are blurred
            assert white[y1 + 1:max(y2 - 1, y1 + 2), x1 + 1:max(x2 - 1, x1 + 2)].min() > 100
        columns, rows = source_pixels(copy)
        assert columns.min() >= copy.source[0] and columns.max() < copy.source[2]
        assert rows.min() >= copy.source[1] and rows.max() < copy.source[3]
        obstacles.append(copy.place)


def test_a_device_draws_the_same_pixels():
    """Of the frame that it has: what differs is what differed before."""
    rng = np.random.default_rng(0)
    policy = YoloPolicy(copy_paste=0.5, copy_paste_small=1.0, mixup=0.3)
    store = Store()
    images = DeviceImages(store, torch.device("cpu"), copies_needed(policy), policy.fill_bgr)
    parts = [Labels(random_boxes(rng, 3, *s), np.arange(3), np.zeros(3, bool)) for s in SIZES]
    plans = [policy.draw(rng, Scene(k % 6, S, SIZES.__getitem__, lambda n: rng.integers(0, 6, n).tolist()))
             for k in range(8)]
    found = [plan_labels(plan, parts.__getitem__, SIZES.__getitem__, S, policy, lambda i: False) for plan in plans]
    assert sum(len(f.copied) for f in found) > 5 and any(f.pasted for f in found)

    def draw(all_labels):
        packed = pack_plans([(p, f, k) for k, (p, f) in enumerate(zip(plans, all_labels, strict=True))], (S, S),
                            images.layout)
        return render(packed, images.block, torch.empty(8, S, S, 3, dtype=torch.uint8)).numpy()

    without, drawn = draw([replace(f, copied=()) for f in found]), draw(found)
    for frame, f, got in zip(without, found, drawn, strict=True):
        assert np.array_equal(draw_copied(frame.copy(), f.copied), got)


def test_off_draws_no_number():
    scene = Scene(0, S, lambda i: (60, 90), lambda k: list(range(k)))
    plain, small = (YoloPolicy(copy_paste_small=p).draw(np.random.default_rng(3), scene) for p in (0.0, 0.5))
    assert plain.small is None and small.small is not None and replace(small, small=None).colour == plain.colour
    closed = replace(scene, mosaic=False)
    assert YoloPolicy(copy_paste_small=1.0).draw(np.random.default_rng(3), closed).small is None
    rect = YoloPolicy(copy_paste_small=1.0).in_rectangles().draw(np.random.default_rng(3), scene)
    assert rect.small is not None and len(rect.layers[0].tiles) == 1
