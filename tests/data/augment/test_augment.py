"""Pixels of the one-pass mosaic against the reference: paste on a 2S canvas, then warp that."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.augment.render
from data.augment.colour import adjust_hsv, scale_at_once, scale_planes
from data.augment.geometry import (
    BoxFilter,
    Labels,
    MosaicLayer,
    affine_matrix,
    flip_matrix,
    layer_labels,
    mosaic_tiles,
    project,
    single_tile,
)
from data.augment.plan import Plan, Scene
from data.augment.policies.yolo import YoloPolicy, draw_layer
from data.augment.render import mixup, plan_labels, render_layer, render_plan
from data.images.letterbox import fit_side, letterbox
from data.images.store import shrink
from tests.data.pictures import random_boxes, smooth
from tests.refusals import refused

S = 128
SIZES = [(120, 160), (160, 90), (64, 64), (128, 128), (100, 300)]
IMAGES = [smooth(h, w, k) for k, (h, w) in enumerate(SIZES)]


def _load(index):
    return shrink(IMAGES[index], 1)


def _labels(index):
    boxes = random_boxes(np.random.default_rng(index), 30, *SIZES[index])
    return Labels(boxes, np.full(30, index), np.arange(30) % 10 == 0)


def _reference(layer: MosaicLayer, canvas_side: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame by way of the whole canvas, and where a tile's edge is too near to compare (False)."""
    canvas = np.full((canvas_side, canvas_side, 3), 114, np.uint8)
    owner = np.zeros((canvas_side, canvas_side), np.float32)
    for number, tile in enumerate(layer.tiles, 1):
        h, w = fit_side(SIZES[tile.index], S)
        resized = cv2.resize(IMAGES[tile.index], (w, h))
        ox, oy = (round(v) for v in tile.offset)
        x1, y1, x2, y2 = (round(v) for v in tile.region)
        canvas[y1:y2, x1:x2] = resized[y1 - oy:y2 - oy, x1 - ox:x2 - ox]
        owner[y1:y2, x1:x2] = number
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    matrix = np.linalg.inv(half) @ layer.matrix @ half
    frame = cv2.warpPerspective(canvas, matrix, (S, S), borderValue=(114,) * 3)
    owners = [cv2.warpPerspective(owner, matrix, (S, S), flags=f) for f in (cv2.INTER_NEAREST, cv2.INTER_LINEAR)]
    pure = (np.abs(owners[0] - owners[1]) < 1e-4).astype(np.uint8)
    return frame, cv2.erode(pure, np.ones((3, 3))) > 0


def _reference_boxes(layer: MosaicLayer, parts: list[Labels], canvas_side: int, zoom: float) -> np.ndarray:
    """YOLO's label path written one box at a time: to the canvas, cut, corners through the matrix, cut, filter."""
    rows = []
    for tile, part in zip(layer.tiles, parts, strict=True):
        new, old = fit_side(SIZES[tile.index], S), SIZES[tile.index]
        for box, label, ignore in zip(part.boxes.astype(float), part.labels, part.ignore, strict=True):
            x1, x2 = (min(max(x * new[1] / old[1] + tile.offset[0], 0), canvas_side) for x in box[[0, 2]])
            y1, y2 = (min(max(y * new[0] / old[0] + tile.offset[1], 0), canvas_side) for y in box[[1, 3]])
            corners = np.array([(x, y, 1) for x in (x1, x2) for y in (y1, y2)]) @ layer.matrix.T
            corners = np.clip(corners[:, :2] / corners[:, 2:], 0, S)
            (a, b), (c, d) = corners.min(0), corners.max(0)
            w, h = c - a, d - b
            good = min(w, h) > 2 and w * h > 0.1 * (x2 - x1) * (y2 - y1) * zoom**2 and max(w / h, h / w) < 100
            if (w * h > 0) if ignore else good:
                rows.append((a, b, c, d, label, ignore))
    return np.array(rows).reshape(-1, 6)


@pytest.mark.parametrize("config", [
    YoloPolicy(flipud=0.5), YoloPolicy(degrees=25, shear=8), YoloPolicy(degrees=10, perspective=0.001),
    YoloPolicy(scale=0.9, translate=0.4)])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_one_pass_equals_canvas_then_warp(config, count, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(SIZES), count).tolist()
    flip = flip_matrix(S, seed == 1, seed == 2)
    layer = draw_layer(rng, config, indices, [SIZES[i] for i in indices], S, flip)
    canvas = S if count == 1 else 2 * S

    want, comparable = _reference(layer, canvas)
    frame, damaged = render_layer(layer, S, _load)
    assert not damaged and comparable.mean() > 0.6
    error = np.abs(frame[..., :3].astype(int) - want)[comparable]
    assert error.max() <= 2 and error.mean() < 0.3  # the reference rounds twice

    parts = [_labels(t.index) for t in layer.tiles]
    found = layer_labels(layer, parts, S, config.box_filter)
    rows = _reference_boxes(layer, parts, canvas, layer.zoom)
    assert len(found) == len(rows) > 0
    assert np.allclose(found.boxes, rows[:, :4], atol=1e-3)
    assert found.labels.tolist() == rows[:, 4].tolist() and found.ignore.tolist() == rows[:, 5].astype(bool).tolist()


@given(seed=st.integers(0, 1000), angle=st.sampled_from([0.0, 17.0]))
@settings(max_examples=20, deadline=None)
def test_tiles_meet_without_a_gap(seed, angle):
    """Four white images that cover the frame leave no grey seam between them."""
    rng = np.random.default_rng(seed)
    tiles = mosaic_tiles([0] * 4, [(S, S)] * 4, S, tuple(rng.integers(S // 2, 3 * S // 2, 2).tolist()))
    white = np.full((S, S, 3), 255, np.uint8)
    matrix = affine_matrix(2 * S, S, zoom=rng.uniform(2.5, 3.5), angle=angle, shift=tuple(rng.uniform(0.4, 0.6, 2)))
    frame, _ = render_layer(MosaicLayer(tuple(tiles), matrix, 3.0), S, lambda i: (white, (1.0, 1.0)))
    assert (frame[..., :3] == 255).all()


@pytest.mark.parametrize("perspective", [0.0, 0.001])
def test_a_turned_tile_covers_the_pixels_whose_centres_lie_on_it(perspective):
    tiles = mosaic_tiles([0, 1, 2, 4], [SIZES[i] for i in (0, 1, 2, 4)], S, (100, 140))
    matrix = affine_matrix(2 * S, S, zoom=0.6, angle=25, shear=(3, -2), perspective=(perspective, -perspective))
    layer = MosaicLayer(tuple(tiles), matrix, 0.6)
    frame, _ = render_layer(layer, S, lambda i: (np.full((*SIZES[i], 3), 255, np.uint8), (1.0, 1.0)), fill=(0, 0, 0))
    centres = np.stack(np.meshgrid(np.arange(S) + 0.5, np.arange(S) + 0.5), -1)
    x, y = np.moveaxis(project(np.linalg.inv(matrix), centres).astype(np.float32), -1, 0)  # (S, S)
    on_tile = [(x >= x1) & (x < x2) & (y >= y1) & (y < y2) for x1, y1, x2, y2 in (t.region for t in tiles)]
    assert np.array_equal(frame[..., 0] == 255, np.any(on_tile, 0)) and 0.2 < np.any(on_tile, 0).mean() < 0.9


def test_still_settings_give_the_letterbox():
    frame, _ = render_layer(MosaicLayer((single_tile(0, SIZES[0], S),), affine_matrix(S, S), 1.0), S, _load)
    want, _ = letterbox(IMAGES[0], S)
    assert np.abs(frame[..., :3].astype(int) - want).max() <= 3


def test_a_flip_in_the_matrix_is_a_flip_of_pixels():
    layer = MosaicLayer((single_tile(3, SIZES[3], S),), affine_matrix(S, S), 1.0)
    plain, _ = render_layer(layer, S, _load)
    mirrored, _ = render_layer(MosaicLayer(layer.tiles, flip_matrix(S, True, False) @ layer.matrix, 1.0), S, _load)
    assert np.array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize("zoom", [0.55, 1.0, 1.4])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (True, True)])
def test_laying_out_and_warping_draw_the_same(zoom, flips, monkeypatch):
    """Laid out and resized once, or each source warped onto the frame: an upright layer is the same but at seams."""
    rng = np.random.default_rng(3)
    sizes = [fit_side(s, S) for s in SIZES[:4]]
    images = [cv2.resize(image, (w, h)) for image, (h, w) in zip(IMAGES, sizes)]
    layer = draw_layer(rng, YoloPolicy(scale=0), [0, 1, 2, 3], sizes, S, flip_matrix(S, *flips))
    layer.matrix[:2] *= zoom  # a whole pixel of the canvas stays the frame's first
    assert data.augment.render._first_pixel(layer) is not None
    laid_out, _ = render_layer(layer, S, lambda i: (images[i], (1.0, 1.0)))
    monkeypatch.setattr(data.augment.render, "_first_pixel", lambda layer: None)
    warped, _ = render_layer(layer, S, lambda i: (images[i], (1.0, 1.0)))
    error = np.abs(laid_out.astype(int) - warped).max(2)
    assert np.median(error) == 0 and (error <= 1).mean() > 0.95


def test_colours_may_change_before_or_after_the_enlargement():
    layer = MosaicLayer((single_tile(3, SIZES[3], S),), affine_matrix(S, S, zoom=1.5), 1.5)
    corner = -layer.matrix[0, 2] / 1.5
    layer.matrix[:2, 2] = -1.5 * round(corner)
    gains = (1.01, 1.5, 0.8)
    image, _ = render_plan(Plan((layer,), 1.0, gains), _load, S, YoloPolicy())
    want = adjust_hsv(render_layer(layer, S, _load)[0], gains)
    error = np.abs(image.astype(int) - want)
    assert error.mean() < 1 and image.shape == (S, S, 3)


def test_unseen_sources_are_not_loaded_and_damaged_ones_are_ignored():
    tiles = mosaic_tiles([0, 1, 2, 3], SIZES[:4], S, (S // 2, S // 2))
    matrix = affine_matrix(2 * S, S, zoom=2.0, shift=(-0.2, -0.2))  # looks at the bottom right quarter only
    asked = []
    render_layer(MosaicLayer(tuple(tiles), matrix, 2.0), S, lambda i: asked.append(i) or _load(i))
    assert asked == [3]

    broken = Plan((MosaicLayer(tuple(tiles), affine_matrix(2 * S, S), 1.0),), 1.0, (1.0, 1.0, 1.0))
    image, damaged = render_plan(broken, lambda i: None if i == 3 else _load(i), S, YoloPolicy())
    found = plan_labels(broken, _labels, SIZES.__getitem__, S, YoloPolicy(), damaged.__contains__)
    x1, y1, x2, y2 = found.boxes[found.ignore][-1]
    assert (image[int(y1):int(y2), int(x1):int(x2)] == 114).all() and (x2 - x1) * (y2 - y1) > 1000
    assert not (found.labels[~found.ignore] == 3).any()


def test_mixup_blends_pixels_and_joins_labels():
    a, b = (np.full((4, 4, 3), v, np.uint8) for v in (100, 200))
    assert np.unique(mixup(a, b, 0.25)).tolist() == [175]
    rng = np.random.default_rng(0)
    plan = YoloPolicy(mixup=1.0).draw(rng, Scene(0, S, SIZES.__getitem__, lambda k: [1] * k))
    assert len(plan.layers) == 2 and 0.2 < plan.blend < 0.8
    found = plan_labels(plan, _labels, SIZES.__getitem__, S, YoloPolicy(), lambda i: False)
    each = [layer_labels(x, [_labels(t.index) for t in x.tiles], S, BoxFilter()) for x in plan.layers]
    assert len(found) == sum(map(len, each))


def test_closing_mosaic_closes_mixup_too():
    plan = YoloPolicy(mixup=1.0).draw(
        np.random.default_rng(0), Scene(2, S, SIZES.__getitem__, lambda k: [1] * k, mosaic=False))
    assert [t.index for layer in plan.layers for t in layer.tiles] == [2]


def _yolo_hsv(rgb: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    """The published rule: one look-up table per plane."""
    x = np.arange(256)
    tables = ((x * gains[0]) % 180, np.clip(x * gains[1], 0, 255), np.clip(x * gains[2], 0, 255))
    planes = [t.astype(np.uint8)[p] for t, p in zip(tables, cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)))]
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2RGB)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("gains", [(1.01, 1.6, 0.7), (0.99, 0.4, 1.4), (1.0, 1.0, 1.0), (1.4, 1.0, 1.0),
                                   (1.9, 0.9, 1.1)])
def test_hsv_follows_the_published_rule(gains, at_once, monkeypatch):
    monkeypatch.setattr("data.augment.colour.AT_ONCE", at_once)
    bgr, rgb = IMAGES[0].copy(), np.ascontiguousarray(IMAGES[0][..., ::-1])
    ours = adjust_hsv(bgr, gains)
    error = np.abs(ours.astype(int) - _yolo_hsv(rgb, gains))
    assert error.mean() < 1.5 and ours.flags.c_contiguous and np.array_equal(bgr, IMAGES[0])
    if gains == (1.0, 1.0, 1.0):
        assert np.array_equal(ours, rgb)


@given(hue=st.floats(0.5, 1.4), saturation=st.floats(0.0, 2.0), value=st.floats(0.0, 2.0))
def test_both_ways_to_scale_agree_on_every_level(hue, saturation, value):
    levels = np.arange(256)
    once, planes = np.stack([levels % 180, levels, levels], -1).astype(np.uint8)[None].repeat(2, 0)[:, None]
    scale_at_once(once, (hue, saturation, value))
    scale_planes(planes, (hue, saturation, value))
    assert np.array_equal(once[..., 1:], planes[..., 1:])
    exact = levels % 180 * hue
    assert np.array_equal(planes[0, :, 0], np.floor(exact) % 180)
    assert ((once[0, :, 0] == np.floor(exact)) | (once[0, :, 0] == np.floor(exact + 0.0011))).all()


@given(value=st.floats(0.2, 1.0))
def test_less_value_never_brightens(value):
    rgb = IMAGES[0][..., ::-1]
    assert (adjust_hsv(IMAGES[0], (1.0, 1.0, value)).max(2) <= rgb.max(2).astype(int) + 1).all()


@pytest.mark.parametrize(("wrong", "name"), [
    ({"mosaic": 1.2}, "mosaic"), ({"scale": 1.0}, "scale"), ({"hsv_s": -0.1}, "hsv_s"),
    ({"perspective": 0.1}, "perspective"), ({"degrees": float("nan")}, "degrees"),
    ({"scale_extra": 1e7}, "scale_extra"), ({"translate": 1e30}, "translate"),
    ({"min_area": float("inf")}, "min_area"), ({"hsv_v": 1e308}, "hsv_v"), ({"shear": 90}, "shear"),
    ({"fill": 256}, "fill")])
def test_impossible_settings_are_told_by_name(wrong, name):
    with refused("bad-value", name):
        YoloPolicy(**wrong)


@given(seed=st.integers(0, 10_000), config=st.sampled_from([
    YoloPolicy(), YoloPolicy(degrees=30, shear=5, flipud=0.5, mixup=1.0), YoloPolicy(scale=0.9, mosaic=0.5)]))
@settings(max_examples=25, deadline=None)
def test_boxes_always_lie_in_the_frame(seed, config):
    rng = np.random.default_rng(seed)
    plan = config.draw(rng, Scene(0, S, SIZES.__getitem__, lambda k: rng.integers(0, 5, k).tolist()))
    image, damaged = render_plan(plan, _load, S, config)
    found = plan_labels(plan, _labels, SIZES.__getitem__, S, config, damaged.__contains__)
    assert image.shape == (S, S, 3) and image.dtype == np.uint8
    assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64
    assert found.boxes.size == 0 or (found.boxes.min() >= 0 and found.boxes.max() <= S)
    sides = (found.boxes[:, 2:] - found.boxes[:, :2])[~found.ignore]
    assert (sides > config.min_side).all()
