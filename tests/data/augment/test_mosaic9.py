"""Nine images on a canvas of which a window is seen: tiles on numbers, pixels by the renderer that all layers share."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augment.geometry import (
    BoxFilter,
    Labels,
    MosaicLayer,
    clip,
    flip_matrix,
    layer_labels,
    mosaic9_tiles,
    scaling,
)
from data.augment.geometry import transform_boxes as move
from data.augment.plan import Scene
from data.augment.policies.yolo import YoloPolicy, draw_layer
from data.augment.render import render_layer
from data.images.letterbox import fit_side
from tests.data.pictures import random_boxes

EVERYTHING = BoxFilter(min_side=0, min_area=0, max_aspect=1e9)
S = 64


def some_tiles(seed, side, square=False):
    rng = np.random.default_rng(seed)
    sizes = [(side, side)] * 9 if square else [tuple(s) for s in rng.integers(5, 400, (9, 2)).tolist()]
    corner = tuple(rng.integers(0, side, 2, endpoint=True).tolist())
    return mosaic9_tiles(list(range(9)), sizes, side, corner), sizes, rng


def owners(tiles, side):
    """(2S, 2S) how many tiles show each pixel of the window, and the area of all regions."""
    count = np.zeros((2 * side, 2 * side), int)
    for tile in tiles:
        x1, y1, x2, y2 = (int(v) for v in tile.region)
        assert (x1, y1, x2, y2) == tile.region  # whole pixels
        count[y1:y2, x1:x2] += 1
    return count


@given(seed=st.integers(0, 10_000), side=st.integers(16, 120))
def test_regions_are_disjoint_in_the_window_and_on_their_images(seed, side):
    tiles, sizes, _ = some_tiles(seed, side)
    assert owners(tiles, side).max() == 1 and tiles[0].index == 0  # the first image is seen wherever the window is
    for tile in tiles:
        h, w = fit_side(sizes[tile.index], side)
        x, y = tile.offset
        assert tile.region[0] >= max(x, 0) and tile.region[2] <= min(x + w, 2 * side)
        assert tile.region[1] >= max(y, 0) and tile.region[3] <= min(y + h, 2 * side)
        assert tile.region[0] < tile.region[2] and tile.region[1] < tile.region[3]


@given(seed=st.integers(0, 10_000), side=st.integers(16, 120))
def test_square_images_cover_the_window(seed, side):
    tiles, _, _ = some_tiles(seed, side, square=True)
    assert (owners(tiles, side) == 1).all() and len(tiles) >= 4


@given(seed=st.integers(0, 10_000), side=st.integers(16, 120))
def test_labels_stay_on_their_tile_and_none_is_lost(seed, side):
    tiles, sizes, rng = some_tiles(seed, side)
    parts = [Labels(random_boxes(rng, 4, *sizes[t.index]), np.full(4, t.index), rng.random(4) < 0.3) for t in tiles]
    found = layer_labels(MosaicLayer(tuple(tiles), scaling(1, 1), 1.0), parts, 2 * side, EVERYTHING)
    seen = [clip(move(t.matrix(), p.boxes), t.region) for t, p in zip(tiles, parts, strict=True)]
    area = [np.prod(b[:, 2:] - b[:, :2], 1) for b in seen]
    assert len(found) == sum((a > 0).sum() for a in area)
    assert found.ignore.sum() == sum((p.ignore & (a > 0)).sum() for p, a in zip(parts, area, strict=True))
    for tile in tiles:
        mine = found.boxes[found.labels == tile.index]
        assert (mine >= np.tile(tile.region[:2], 2) - 1e-3).all() and (mine <= np.tile(tile.region[2:], 2) + 1e-3).all()


@given(seed=st.integers(0, 1000), angle=st.sampled_from([0.0, 17.0]))
@settings(max_examples=15, deadline=None)
def test_nine_tiles_meet_without_a_gap(seed, angle):
    rng = np.random.default_rng(seed)
    white = np.full((S, S, 3), 255, np.uint8)
    config = YoloPolicy(degrees=angle, scale=0.1, scale_extra=2.0, translate=0)
    layer = draw_layer(rng, config, list(range(9)), [(S, S)] * 9, S, flip_matrix(S, False, False))
    if layer.zoom < 1.5:  # smaller, a turned frame looks past the window
        layer = MosaicLayer(layer.tiles, scaling(2, 2, -1.5 * S, -1.5 * S), 2.0)
    frame, _ = render_layer(layer, S, lambda i, *_: (white, (1.0, 1.0)))
    assert (frame[..., :3] == 255).all()


@pytest.mark.parametrize(("share", "mixup", "drawn"), [(0.0, 0.0, {3}), (1.0, 0.0, {8}), (1.0, 1.0, {8, 9}),
                                                       (0.5, 0.0, {3, 8})])
def test_partners_that_are_drawn(share, mixup, drawn):
    config, asked = YoloPolicy(mosaic9=share, mixup=mixup), set()
    for seed in range(12):
        config.draw(np.random.default_rng(seed), Scene(0, S, lambda i: (S, S), lambda k: asked.add(k) or [0] * k))
    assert asked == drawn


def test_the_plans_of_other_recipes_are_as_they_were():
    """mosaic9 and copy_paste draw no number unless they are on: runs of before repeat to the bit."""
    scene = Scene(0, S, lambda i: (S, S), lambda k: [1] * k)
    plain, both = (YoloPolicy(copy_paste=share).draw(np.random.default_rng(3), scene) for share in (0.0, 0.5))
    assert plain.colour == both.colour and plain.paste is None and both.paste.share == 0.5
    assert np.array_equal(plain.layers[0].matrix, both.layers[0].matrix)
    closed = YoloPolicy(copy_paste=1.0).draw(
        np.random.default_rng(3), Scene(0, S, lambda i: (S, S), lambda k: [1] * k, mosaic=False))
    assert closed.paste is None and len(closed.layers[0].tiles) == 1
