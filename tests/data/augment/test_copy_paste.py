"""Copy-paste: which objects, where, and that the pixels are theirs."""

from dataclasses import replace

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.copy_paste import draw_pasted, mask, paste_labels
from data.augment.geometry import BoxFilter, Labels, MosaicLayer, affine_matrix, cut_outlines, layer_labels, single_tile
from data.augment.plan import Paste, Scene
from data.augment.policies.yolo import YoloPolicy
from data.augment.render import plan_labels, render_plan
from data.index import load_index
from data.loading.dataset import DetectionDataset
from tests.data import makers
from tests.data.pictures import random_boxes, smooth

S = 96
EVERY = Paste(1.0, 7)


def labels(*boxes, ignore=None, polygons=None):
    return Labels(np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)),
                  np.zeros(len(boxes), bool) if ignore is None else np.array(ignore), polygons)


def star(x, y, radius):
    """An outline with five points, inside the box x - radius ... y + radius."""
    turn = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2, 0.4, 1.0) * radius
    return np.stack((x + reach * np.sin(turn), y - reach * np.cos(turn)), 1).astype(np.float32)


def test_a_box_is_pasted_at_its_mirrored_place_to_the_pixel():
    frame = smooth(S, S, 0)
    found = paste_labels(EVERY, labels((10, 20, 30, 50)), S)
    assert found.boxes.tolist() == [[10, 20, 30, 50], [66, 20, 86, 50]] and found.labels.tolist() == [0, 0]
    want = frame.copy()
    want[20:50, 66:86] = frame[20:50, 10:30][:, ::-1]
    assert np.array_equal(draw_pasted(frame.copy(), found.pasted), want)


def test_a_polygon_takes_its_own_pixels_only():
    outline = star(25, 40, 15)
    frame = np.zeros((S, S, 3), np.uint8)
    cv2.fillPoly(frame, [np.round((outline - 0.5) * 16).astype(np.int32)], (200, 100, 50), shift=4)
    found = paste_labels(EVERY, labels((10, 25, 40, 55), polygons=[outline]), S)
    image = np.where(frame.any(2, keepdims=True), frame, 30).astype(np.uint8)  # the background is no object
    pasted = draw_pasted(image.copy(), found.pasted)
    assert found.polygons is None and len(found) == 2
    wrong = (pasted != image[:, ::-1]).any(2)[:, S // 2:]  # the star alone has moved: a mirror image of the frame
    assert not cv2.erode(wrong.astype(np.uint8), np.ones((2, 2))).any()  # but for its line, a pixel wide
    drawn = mask(found.pasted, S) > 0
    assert 0.2 < drawn.sum() / 900 < 0.6 and not drawn[:, :S // 2].any()


def test_who_would_be_hidden_decides():
    own = labels((40, 20, 56, 50))  # in the middle: it would cover itself
    assert paste_labels(EVERY, own, S) is not own and len(paste_labels(EVERY, own, S)) == 1
    covered = labels((5, 20, 25, 50), (71, 20, 91, 50))  # each would cover the other
    assert len(paste_labels(EVERY, covered, S)) == 2
    crowd = labels((5, 20, 25, 50), (71, 20, 91, 50), ignore=[False, True])  # may be covered, and stays
    found = paste_labels(EVERY, crowd, S)
    assert found.boxes[-1].tolist() == [71, 20, 91, 50] and found.ignore.tolist() == [False, True, False]


def test_together_they_hide_less_than_a_third():
    """Three that would each hide 20 % of one object: one of them may."""
    large = (56, 0, 96, 96)
    found = paste_labels(EVERY, labels(large, (0, 0, 24, 32), (0, 32, 24, 64), (0, 64, 24, 96)), S)
    assert len(found) == 5 and found.labels[-1] > 0


def test_a_rectangle_with_company_is_left_alone_a_polygon_is_not():
    boxes = (5, 20, 35, 60), (10, 30, 20, 40)  # the second stands in the first
    assert len(paste_labels(EVERY, labels(*boxes), S)) == 2
    both = labels(*boxes, polygons=[star(20, 40, 15), np.zeros((0, 2), np.float32)])
    assert paste_labels(EVERY, both, S).labels.tolist() == [0, 1, 0]
    assert len(paste_labels(EVERY, both, S, blended=True)) == 2


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), width=st.integers(40, 200))
@settings(max_examples=60, deadline=None)
def test_pasted_labels_of_any_frame(seed, share, width):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, int(rng.integers(0, 30)), S, width)
    polygons = [star(*(b[:2] + b[2:]) / 2, 30) if rng.random() < 0.5 else np.zeros((0, 2), np.float32) for b in boxes]
    given_ = Labels(boxes, np.arange(len(boxes)), rng.random(len(boxes)) < 0.2, polygons)
    found = paste_labels(Paste(share, seed), given_, (S, width))
    n = len(boxes)
    assert np.array_equal(found.boxes[:n], boxes) and not found.ignore[n:].any()
    assert len(found) - n == len(found.pasted) == len(set(found.labels[n:].tolist()))
    source = boxes[found.labels[n:]]
    assert np.allclose(found.boxes[n:], np.stack((width - source[:, 2], source[:, 1], width - source[:, 0],
                                                  source[:, 3]), 1), atol=1e-4)
    where = mask(found.pasted, (S, width)) > 0
    for outline, (x1, y1, x2, y2) in zip(found.pasted, found.boxes[n:], strict=True):
        assert (outline >= (x1, y1)).all() and (outline <= (x2, y2)).all()
    for x1, y1, x2, y2 in boxes[~given_.ignore]:  # what is pasted leaves most of every object in sight
        part = where[int(np.ceil(y1)):int(y2), int(np.ceil(x1)):int(x2)]
        assert min(part.shape) < 8 or part.mean() < 0.45  # its whole pixels; borders are drawn a pixel wide
    frame = smooth(S, width, seed % 5)
    drawn = draw_pasted(frame.copy(), found.pasted)
    assert np.array_equal(drawn, np.where(where[..., None], frame[:, ::-1], frame))
    assert paste_labels(Paste(share, seed), given_, (S, width)).boxes.tolist() == found.boxes.tolist()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_cut_outline_encloses_what_the_outline_encloses_of_the_region(seed):
    rng = np.random.default_rng(seed)
    polygons = [star(*rng.uniform(0, 200, 2), rng.uniform(5, 150)) for _ in range(3)]
    x1, y1 = rng.integers(0, 120, 2).tolist()
    x2, y2 = x1 + int(rng.integers(10, 80)), y1 + int(rng.integers(10, 80))
    ends = np.cumsum([len(p) for p in polygons])
    points, cut_ends = cut_outlines(np.concatenate(polygons).astype(float), ends, (x1, y1, x2, y2))
    for polygon, cut in zip(polygons, np.split(points, cut_ends[:-1]), strict=True):
        whole, part = (np.zeros((400, 400), np.uint8) for _ in range(2))
        for canvas, outline in ((whole, polygon), (part, cut)):
            cv2.fillPoly(canvas, [np.round((outline + 100) * 256).astype(np.int32)], 1, shift=8)
        inside = np.s_[y1 + 101:y2 + 100, x1 + 101:x2 + 100]
        line = cv2.morphologyEx(whole, cv2.MORPH_GRADIENT, np.ones((3, 3)))[inside] > 0  # drawn either way
        assert np.array_equal(whole[inside][~line], part[inside][~line])
        assert part.sum() == part[y1 + 100:y2 + 101, x1 + 100:x2 + 101].sum()


def test_polygons_follow_their_boxes_through_a_layer():
    layer = MosaicLayer((single_tile(0, (50, 80), S),), affine_matrix(S, S, zoom=1.7, shift=(0.4, 0.6)), 1.7)
    boxes = np.array([[10, 10, 40, 30], [60, 5, 80, 50], [-1, -1, -0.5, -0.5]], np.float32)
    polygons = [b[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for b in boxes[:2]] + [np.zeros((0, 2), np.float32)]
    found = layer_labels(layer, [Labels(boxes, np.arange(3), np.zeros(3, bool), polygons)], S, BoxFilter())
    assert found.labels.tolist() == [0, 1] and len(found.polygons) == 2
    for box, polygon in zip(found.boxes, found.polygons, strict=True):
        hull = np.concatenate((polygon.min(0), polygon.max(0)))
        assert np.allclose(np.clip(hull, 0, S), box, atol=1e-3)


@given(seed=st.integers(0, 300))
@settings(max_examples=15, deadline=None)
def test_a_whole_sample_with_everything_on(seed):
    """Nine tiles, mixup, rotation and copy-paste: labels in the frame, crowds and damaged images stay ignored."""
    config = YoloPolicy(mosaic9=0.5, mixup=0.5, degrees=10, copy_paste=0.9)
    rng = np.random.default_rng(seed)
    sizes = [(60, 90), (90, 60), (50, 50), (120, 70)]
    parts = [Labels(b := random_boxes(rng, 12, *s), np.arange(12), np.arange(12) % 4 == 0,
                    [star(*(x[:2] + x[2:]) / 2, 8) if k % 2 else np.zeros((0, 2), np.float32)
                     for k, x in enumerate(b)]) for s in sizes]
    plan = config.draw(rng, Scene(0, S, sizes.__getitem__, lambda k: rng.integers(0, 4, k).tolist()))
    image, damaged = render_plan(plan, lambda i, *_: None if i == 2 else (smooth(*sizes[i], i), (1.0, 1.0)), S, config)
    found = plan_labels(plan, parts.__getitem__, sizes.__getitem__, S, config, damaged.__contains__)
    before = plan_labels(replace(plan, paste=None), parts.__getitem__, sizes.__getitem__, S, config,
                         damaged.__contains__)
    assert found.ignore.sum() == before.ignore.sum() and len(found) == len(before) + len(found.pasted)
    assert found.boxes.size == 0 or (found.boxes.min() >= 0 and found.boxes.max() <= S)
    assert draw_pasted(image, found.pasted).shape == (S, S, 3)


def test_the_dataset_pastes_what_the_label_files_outline(tmp_path):
    row = "0 " + " ".join(f"{v:.4f}" for v in (star(25, 30, 15) / (makers.WIDTH, makers.HEIGHT)).ravel())
    yaml = makers.yolo(tmp_path, {"a.jpg": row, "b.jpg": row})
    still = {"mosaic": 0, "scale": 0, "translate": 0, "fliplr": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
    pasted = {}
    for polygons in (False, True):
        records = load_index(yaml, "train", cache=False, polygons=polygons).records
        plain, twice = (DetectionDataset(records, 100, YoloPolicy(**still, copy_paste=p))[0, 0] for p in (0.0, 1.0))
        assert len(twice.boxes) == 2 * len(plain.boxes) == 2
        assert np.allclose(twice.boxes[1, [2, 0]], 100 - twice.boxes[0, [0, 2]], atol=1e-3)
        changed = (plain.image != twice.image).any(2)
        x1, y1, x2, y2 = twice.boxes[1]
        assert not changed[:, :int(x1)].any() and not changed[:int(y1)].any() and not changed[int(y2) + 1:].any()
        pasted[polygons] = changed.sum()
    assert pasted[True] < 0.7 * pasted[False]
