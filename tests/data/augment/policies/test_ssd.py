"""The policy of SSD: what it draws, where it puts boxes and pixels."""

from collections import Counter

import numpy as np
import pytest

from data.augment.geometry import Labels
from data.augment.photometric import Photometric
from data.augment.plan import Plan, Scene
from data.augment.policies.ssd import CROPS, TRIES, SsdPolicy, crop_layer, draw_crop, first_crop, overlaps
from data.augment.render import plan_labels, render_plan
from tests.data.pictures import smooth
from tests.refusals import refused

SIZE, FRAME = (240, 320), 120  # height, width; side
BOXES = np.array([(10, 20, 60, 90), (150, 100, 300, 230), (200, 10, 212, 22)], np.float32)
STILL = {"distort": 0.0, "swap_channels": 0.0, "expand": 0.0, "iou_crop": "none", "fliplr": 0.0}


def _labels(boxes=BOXES, ignore=()) -> Labels:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Labels(boxes, np.arange(len(boxes)), np.isin(np.arange(len(boxes)), ignore))


def _scene(labels: Labels | None = None, size=SIZE, frame=FRAME) -> Scene:
    labels = _labels() if labels is None else labels
    return Scene(0, frame, lambda i: size, lambda k: [], lambda i: labels)


def _plans(policy: SsdPolicy, count: int, **scene) -> list[Plan]:
    return [policy.draw(np.random.default_rng([7, k]), _scene(**scene)) for k in range(count)]


def _found(plan: Plan, policy: SsdPolicy, labels: Labels | None = None, frame=FRAME) -> Labels:
    labels = _labels() if labels is None else labels
    return plan_labels(plan, lambda i: labels, lambda i: SIZE, frame, policy, lambda i: False)


def test_shares_of_every_choice():
    plans = _plans(SsdPolicy(iou_crop="none"), 3000)
    colours = [plan.colour for plan in plans]
    for name, neutral, low, high in (("brightness", 0, -32, 32), ("contrast", 1, 0.5, 1.5), ("saturation", 1, 0.5, 1.5),
                                     ("hue", 0, -18, 18)):
        values = np.array([getattr(colour, name) for colour in colours])
        drawn = values[values != neutral]
        assert 0.45 < len(drawn) / len(values) < 0.55
        assert low <= drawn.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 0.04 * (high - low)
    assert 0.45 < np.mean([colour.contrast_first for colour in colours]) < 0.55
    orders = Counter(colour.channels for colour in colours)
    assert len(orders) == 6 and 0.55 < orders[0, 1, 2] / len(plans) < 0.62  # 1/2 + 1/2 * 1/6
    assert all(0.06 < share / len(plans) < 0.11 for order, share in orders.items() if order != (0, 1, 2))
    assert 0.45 < np.mean([plan.layers[0].matrix[0, 0] < 0 for plan in plans]) < 0.55
    canvases = np.array([plan.layers[0].crop for plan in plans])
    ratios = (canvases[:, 2] - canvases[:, 0]) / SIZE[1]
    assert 0.45 < (ratios > 1).mean() < 0.55 and 3.9 < ratios.max() <= 4
    assert (canvases[:, :2] <= 0).all() and (canvases[:, 2:] >= SIZE[::-1]).all()


def test_crops_keep_their_bound_with_some_object():
    rng = np.random.default_rng(0)
    for bound in (0.1, 0.3, 0.5, 0.7, 0.9):
        found = [first_crop((0, 0, 320, 240), rng.random((TRIES, 4)), bound, BOXES.astype(float), SIZE, 0.3)
                 for _ in range(40)]
        crops = np.array([crop for crop in found if crop], float)
        assert bound > 0.7 or len(crops) > 5
        for crop in crops:
            (x1, y1, x2, y2), own = crop, overlaps(crop[None], BOXES.astype(float)).max()
            assert own >= bound and (y2 - y1 + 1) / (x2 - x1 - 1) >= 0.5 and (y2 - y1 - 1) / (x2 - x1 + 1) <= 2
            centres = (BOXES[:, :2] + BOXES[:, 2:]) / 2
            assert ((centres > crop[:2]) & (centres < crop[2:])).all(1).any()


def test_the_unbounded_form_of_the_published_codes():
    """It shows parts of objects that the paper's bounds rule out."""
    box = np.array([(40.0, 30, 280, 210)])
    shares = {}
    for form in ("paper", "code"):
        rng, policy = np.random.default_rng(1), SsdPolicy(iou_crop=form)
        crops = [draw_crop(rng, policy, (0, 0, 320, 240), SIZE, box) for _ in range(400)]
        ious = overlaps(np.array(crops, float), box)[:, 0]
        shares[form] = (np.mean([crop == (0, 0, 320, 240) for crop in crops]), (ious < 0.3).mean())
    assert 0.12 < shares["code"][0] < 0.22 and shares["code"][1] > 1.5 * shares["paper"][1]
    assert [len(CROPS[form]) for form in ("paper", "code", "none")] == [7, 6, 1]


def test_another_choice_after_fifty_tries():
    """No crop overlaps a speck by a tenth: bounded choices fail, and the whole image or a free crop comes instead."""
    speck, rng = np.array([(100.0, 100, 101, 101)]), np.random.default_rng(2)
    crops = [draw_crop(rng, SsdPolicy(), (0, 0, 320, 240), SIZE, speck) for _ in range(300)]
    whole = np.mean([crop == (0, 0, 320, 240) for crop in crops])
    assert 0.42 < whole < 0.62
    assert all(x1 < 100.5 < x2 and y1 < 100.5 < y2 for x1, y1, x2, y2 in crops)


def test_boxes_are_chosen_by_their_centre_and_cut_to_the_crop():
    layer = crop_layer(0, SIZE, (35, 40, 235, 190), False, FRAME)
    found = _found(Plan((layer,), 1.0, Photometric()), SsdPolicy())
    # The first box's centre lies on the crop's edge (x = 35), the second inside, the third above it.
    assert found.labels.tolist() == [1]
    assert np.allclose(found.boxes, [(115 * 0.6, 60 * 0.8, 120, 120)])
    mirrored = crop_layer(0, SIZE, (34, 40, 235, 190), True, FRAME)
    found = _found(Plan((mirrored,), 1.0, Photometric()), SsdPolicy())
    assert found.labels.tolist() == [0, 1]
    assert np.allclose(found.boxes[0], (120 - 26 * 120 / 201, 0, 120, 50 * 0.8))


def test_however_thin_a_box_it_stays():
    thin = _labels([(100, 50, 100.02, 200), (100, 50, 300, 50.02)])
    assert len(_found(Plan((crop_layer(0, SIZE, (0, 0, 320, 240), False, FRAME),), 1.0, Photometric()), SsdPolicy(),
                      thin)) == 2


def test_ignore_regions_stay_but_do_not_steer():
    labels = _labels(ignore=[1])
    plans = _plans(SsdPolicy(expand=0.0), 200, labels=labels)
    without = _plans(SsdPolicy(expand=0.0), 200, labels=_labels(BOXES[[0, 2]]))
    assert [plan.layers[0].crop for plan in plans] == [plan.layers[0].crop for plan in without]
    corner = Plan((crop_layer(0, SIZE, (0, 0, 160, 110), False, FRAME),), 1.0, Photometric())
    found = _found(corner, SsdPolicy(), labels)
    assert found.labels.tolist() == [0, 1] and found.ignore.tolist() == [False, True]  # a corner of the region shows
    assert np.allclose(found.boxes[1] * (160 / 120, 110 / 120, 160 / 120, 110 / 120), (150, 100, 160, 110))


@pytest.mark.parametrize("labels", [_labels(np.zeros((0, 4))), _labels(ignore=[0, 1, 2])])
def test_images_without_objects_pass_as_background(labels):
    plans = _plans(SsdPolicy(), 300, labels=labels)
    crops = np.array([plan.layers[0].crop for plan in plans])
    assert ((crops[:, :2] < SIZE[::-1]).all(1) & (crops[:, 2:] > 0).all(1)).all()  # none shows fill alone
    inside = (crops[:, :2] > 0).any(1)
    assert inside.mean() > 0.3 and not any(len(_found(p, SsdPolicy(), _labels(np.zeros((0, 4))))) for p in plans[:20])


def test_one_resample_puts_pixels_where_boxes_go():
    """A white square on black stays under its box whatever is drawn, and fill keeps its colour."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[100:180, 120:220] = 255
    labels = _labels([(120, 100, 220, 180)])
    policy = SsdPolicy(distort=0.0, swap_channels=0.0)
    inside, filled = 0, 0
    for plan in _plans(policy, 60, labels=labels):
        frame, damaged = render_plan(plan, lambda i: (image, (1.0, 1.0)), FRAME, policy)
        assert not damaged
        (x1, y1, x2, y2), = _found(plan, policy, labels).boxes.tolist()
        part = frame[int(y1) + 1:int(y2), int(x1) + 1:int(x2)]
        inside += part.size > 0 and (part > 200).mean() > 0.8
        white = (frame > 127).all(2)
        fill = (frame == policy.fill).all(2)
        filled += fill.any()
        white[max(int(y1) - 1, 0):int(y2) + 2, max(int(x1) - 1, 0):int(x2) + 2] = False
        assert not white.any() and (fill | (frame.max(2) == frame.min(2))).all()
    assert inside > 55 and 10 < filled < 50


def test_colours_change_the_image_and_not_the_fill():
    policy = SsdPolicy(**{**STILL, "distort": 1.0, "expand": 1.0})
    plan, = _plans(policy, 1)
    frame, _ = render_plan(plan, lambda i: (smooth(*SIZE), (1.0, 1.0)), FRAME, policy)
    plain, _ = render_plan(Plan(plan.layers, 1.0, Photometric()), lambda i: (smooth(*SIZE), (1.0, 1.0)), FRAME, policy)
    fill = (plain == policy.fill).all(2)
    assert 0.1 < fill.mean() < 0.95 and (frame[fill] == policy.fill).all() and (frame != plain)[~fill].mean() > 0.8


def test_images_held_at_another_size_give_the_same_frame():
    policy, image = SsdPolicy(**{**STILL, "iou_crop": "paper"}), smooth(*SIZE)
    half = image.reshape(120, 2, 160, 2, 3).mean((1, 3)).round().astype(np.uint8)
    for plan in _plans(policy, 8):
        whole, _ = render_plan(plan, lambda i: (image, (1.0, 1.0)), FRAME, policy)
        small, _ = render_plan(plan, lambda i: (half, (0.5, 0.5)), FRAME, policy)
        assert np.abs(whole.astype(int) - small).max() < 12


def test_a_damaged_image_is_an_ignore_region():
    policy, plan = SsdPolicy(), _plans(SsdPolicy(), 1)[0]
    frame, damaged = render_plan(plan, lambda i: None, FRAME, policy)
    found = plan_labels(plan, lambda i: _labels(), lambda i: SIZE, FRAME, policy, damaged.__contains__)
    assert damaged == {0} and found.ignore.tolist() == [True] and frame.shape == (FRAME, FRAME, 3)


def test_frames_of_any_shape_are_filled():
    frame = (90, 150)
    plan, = _plans(SsdPolicy(**STILL), 1, frame=frame)
    image, _ = render_plan(plan, lambda i: (np.full((*SIZE, 3), 200, np.uint8), (1.0, 1.0)), frame, SsdPolicy())
    assert image.shape == (90, 150, 3) and (image == 200).all()
    assert np.allclose(_found(plan, SsdPolicy(), frame=frame).boxes, BOXES * np.tile((150 / 320, 90 / 240), 2))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5000, 2)])
def test_images_of_any_size_are_cropped(size):
    labels = _labels([(0, 0, size[1], size[0])])
    for plan in _plans(SsdPolicy(), 20, labels=labels, size=size):
        x1, y1, x2, y2 = plan.layers[0].crop
        assert x1 < x2 and y1 < y2 and np.isfinite(plan.layers[0].matrix).all()


def test_equal_seeds_draw_equal_plans():
    one, other = (_plans(SsdPolicy(), 5) for _ in range(2))
    assert [(p.colour, p.layers[0].crop, p.layers[0].matrix.tobytes()) for p in one] == [
        (p.colour, p.layers[0].crop, p.layers[0].matrix.tobytes()) for p in other]


@pytest.mark.parametrize("wrong, name", [
    ({"brightness": -1.0}, "brightness"), ({"contrast": 1.5}, "contrast"), ({"distort": 1.1}, "distort"),
    ({"expand_ratio": 0.5}, "expand_ratio"), ({"fill": (1, 2)}, "fill"), ({"fill": (300, 0, 0)}, "fill"),
    ({"fill": 114}, "fill"), ({"iou_crop": "off"}, "iou_crop"), ({"smallest_crop": 0.0}, "smallest_crop"),
    ({"hue": float("nan")}, "hue"), ({"fliplr": True}, "fliplr")])
def test_words_out_of_range_are_named(wrong, name):
    with refused("bad-value", f"{name} "):
        SsdPolicy(**wrong)


def test_all_that_is_wrong_is_said_at_once():
    with refused("bad-value", "hue", "expand_ratio", "iou_crop"):
        SsdPolicy(hue=-1, expand_ratio=99, iou_crop="paper!")


def test_rectangular_frames_are_refused_by_name():
    with refused("flag-conflict", "--rect", "policy"):
        SsdPolicy().in_rectangles()


def test_fill_as_yaml_gives_it():
    assert SsdPolicy(fill=[1, 2, 3]).fill == (1, 2, 3) and SsdPolicy(fill=[1, 2, 3]).fill_bgr == (3, 2, 1)
