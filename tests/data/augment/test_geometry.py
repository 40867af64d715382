import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.augment.geometry import (
    BoxFilter,
    Labels,
    MosaicLayer,
    affine_matrix,
    clip,
    flip_matrix,
    layer_labels,
    mosaic_tiles,
    project,
    scaling,
    single_tile,
    transform_boxes,
)
from tests.data.pictures import random_boxes

EVERYTHING = BoxFilter(min_side=0, min_area=0, max_aspect=1e9)
seeds = st.integers(0, 10_000)


def _some_matrix(rng, size=96, canvas=192, bend=0.0005):
    return affine_matrix(canvas, size, angle=rng.uniform(-40, 40), zoom=rng.uniform(0.4, 1.6),
                         shear=tuple(rng.uniform(-10, 10, 2)), perspective=tuple(rng.uniform(-bend, bend, 2)),
                         shift=tuple(rng.uniform(0.3, 0.7, 2)))


@given(seed=seeds)
def test_a_moved_box_is_the_hull_of_its_corners(seed):
    rng = np.random.default_rng(seed)
    matrix = _some_matrix(rng)
    boxes = random_boxes(rng, 6, 192, 192)
    for box, moved in zip(boxes, transform_boxes(matrix, boxes), strict=True):
        corners = []
        for x in box[[0, 2]]:
            for y in box[[1, 3]]:
                u, v, w = matrix @ (x, y, 1)
                corners.append((u / w, v / w))
        assert moved == pytest.approx([*np.min(corners, 0), *np.max(corners, 0)], abs=1e-4)


@given(seed=seeds, horizontal=st.booleans(), vertical=st.booleans())
def test_flips_are_involutions_that_keep_sizes(seed, horizontal, vertical):
    boxes = random_boxes(np.random.default_rng(seed), 5, 64, 64)
    flip = flip_matrix(64, horizontal, vertical)
    once = transform_boxes(flip, boxes)
    assert np.allclose(transform_boxes(flip, once), boxes, atol=1e-5)
    assert np.allclose(once[:, 2:] - once[:, :2], boxes[:, 2:] - boxes[:, :2], atol=1e-4)
    assert once.min() >= 0 and once.max() <= 64


@given(seed=seeds)
def test_upright_and_general_paths_agree(seed):
    rng = np.random.default_rng(seed)
    matrix = affine_matrix(192, 96, zoom=rng.uniform(0.4, 1.6), shift=(0.4, 0.6)) @ flip_matrix(192, True, False)
    boxes = random_boxes(rng, 6, 192, 192)
    assert np.allclose(transform_boxes(matrix, boxes), transform_boxes(matrix + [[0, 1e-13, 0]] * 3, boxes), atol=1e-6)


@given(seed=seeds)
def test_matrix_without_chance_shows_the_middle_of_the_canvas(seed):
    point = np.random.default_rng(seed).uniform(0, 192, 2)
    assert project(affine_matrix(192, 96), point) == pytest.approx(point - 48)


@given(seed=seeds, side=st.integers(16, 200), cx=st.integers(0, 100), cy=st.integers(0, 100))
def test_mosaic_conserves_labels_and_keeps_boxes_on_their_tile(seed, side, cx, cy):
    rng = np.random.default_rng(seed)
    centre = (side / 2 + cx % (side + 1), side / 2 + cy % (side + 1))
    sizes = [tuple(s) for s in rng.integers(5, 400, (4, 2)).tolist()]
    tiles = mosaic_tiles([0, 1, 2, 3], sizes, side, centre)
    parts = [Labels(random_boxes(rng, 4, *size), np.arange(4) + 4 * k, np.zeros(4, bool))
             for k, size in enumerate(sizes)]
    whole = MosaicLayer(tuple(tiles), scaling(1, 1), 1.0)
    found = layer_labels(whole, parts, 2 * side, EVERYTHING)
    assert set(found.labels.tolist()) <= set(range(16)) and len(np.unique(found.labels)) == len(found)
    for k, tile in enumerate(tiles):
        x1, y1, x2, y2 = tile.region
        mine = found.boxes[(found.labels >= 4 * k) & (found.labels < 4 * k + 4)]
        assert (mine[:, [0, 2]] >= x1 - 1e-3).all() and (mine[:, [0, 2]] <= x2 + 1e-3).all()
        assert (mine[:, [1, 3]] >= y1 - 1e-3).all() and (mine[:, [1, 3]] <= y2 + 1e-3).all()
        assert x2 <= centre[0] or x1 >= centre[0]
    visible = [clip(transform_boxes(t.matrix(), p.boxes), t.region) for t, p in zip(tiles, parts, strict=True)]
    assert len(found) == sum((np.prod(b[:, 2:] - b[:, :2], 1) > 0).sum() for b in visible)


def test_a_thousand_labels_pass_uncapped():
    boxes = random_boxes(np.random.default_rng(0), 4000, 64, 64)
    many = Labels(boxes, np.zeros(4000, np.int64), np.zeros(4000, bool))
    layer = MosaicLayer((single_tile(0, (64, 64), 640),), scaling(1, 1), 1.0)
    assert len(layer_labels(layer, [many], 640, EVERYTHING)) == 4000


@pytest.mark.parametrize(("after", "ignore", "kept"), [
    ((0, 0, 2, 50), False, False),  # as thin as the limit
    ((0, 0, 2.1, 50), False, True),
    ((0, 0, 3, 301), False, False),  # too long
    ((0, 0, 1, 1), True, True),  # crowds stay while any area is left
    ((5, 5, 5, 9), True, False),
])
def test_box_filter_limits(after, ignore, kept):
    after = np.array([after], float)
    assert BoxFilter()(after, after, 1.0, np.array([ignore])).tolist() == [kept]


def test_box_filter_wants_a_tenth_of_the_area_at_the_zoom():
    before, after = np.array([[0, 0, 100, 100.0]]), np.array([[0, 0, 30, 12.0]])  # 360 px of 2500 after zoom 0.5
    assert BoxFilter()(before, after, 0.5, np.zeros(1, bool)).all()
    assert not BoxFilter()(before, after, 1.0, np.zeros(1, bool)).any()


def test_points_behind_the_horizon_stay_finite():
    matrix = affine_matrix(1280, 640, perspective=(0.001, 0.001))
    far = transform_boxes(matrix @ scaling(1, 1, -2000, -2000), np.array([[0, 0, 1280, 1280.0]]))
    assert np.isfinite(far).all() and np.isfinite(clip(far, (0, 0, 640, 640))).all()
