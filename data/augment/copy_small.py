"""Copies of small objects, from their boxes alone (Kisantal et al. 2019, arXiv 1902.07296, "Augmentation for small
object detection"): each is shown a few times more at random places of its own frame where nothing else is.

As in the paper an object is small below 32 px (COCO's small), a copy is resized by up to 20 % and lies on no other
object. Other than there: it may be mirrored, is never turned, is its whole box instead of a segment, with a hard edge,
and sizes are those in the training frame. Which objects and where are numbers (`copy_small_objects`); a pixel of a copy
is a pixel of the frame (`copied_pixels`), so a GPU draws the same ones.

Legend: N labels, T tiles of a layer, A attempts. Frames (H, W, 3) uint8.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data.augment.copy_paste import is_shared
from data.augment.geometry import Array, Copy, Labels, MosaicLayer, Size, clip, frame_sides, transform_boxes
from data.augment.plan import Paste
from data.labels.records import box_areas

SMALL = 32.0  # px, below which the root of a box's area is small
COPIES = 3  # of an object, at most; 1 to so many with equal probability
RESIZED = 0.2  # a copy's sides are multiplied by 1 - this to 1 + this
ATTEMPTS = 20  # for the place of a copy; where all are taken there is no copy
MOST = 100  # copies in a frame


class _Tiles(NamedTuple):
    """The tiles of a layer: frame -> canvas (3, 3), their regions on the canvas (T, 4), the whole pixels x1, y1, x2, y2
    of the frame around each (T, 4), and the running sum of their areas as a share of all (T,)."""

    inverse: Array
    regions: Array
    pixels: Array
    shares: Array

    @classmethod
    def of(cls, layer: MosaicLayer, size: tuple[int, int]) -> "_Tiles":
        regions = np.array([tile.region for tile in layer.tiles], np.float64)
        hull = clip(transform_boxes(layer.matrix, regions), (0, 0, size[1], size[0]))
        pixels = np.concatenate((np.ceil(hull[:, :2] - 1e-6), np.floor(hull[:, 2:] + 1e-6)), 1).astype(np.int64)
        shares = np.cumsum(np.maximum(pixels[:, 2:] - pixels[:, :2], 0).prod(1).astype(np.float64))
        return cls(np.linalg.inv(layer.matrix), regions, pixels, shares / max(shares[-1], 1))

    def hold(self, boxes: Array, tiles: Array | None = None) -> Array:
        """Whether each of some boxes (N, 4) of the frame lies wholly on its tile (N,), or on any: (N,) bool."""
        seen = transform_boxes(self.inverse, boxes)
        if tiles is None:
            seen, regions = seen[:, None], self.regions[None]
        else:
            regions = self.regions[tiles]
        inside = (seen[..., :2] >= regions[..., :2] - 1e-6).all(-1) & (seen[..., 2:] <= regions[..., 2:] + 1e-6).all(-1)
        return inside.any(1) if tiles is None else inside


def copy_small_objects(plan: Paste, labels: Labels, layers: tuple[MosaicLayer, ...], size: Size) -> Labels:
    """The labels of a frame with those of its copies after them, and `copied`, where their pixels come from.

    Each small object is chosen with probability `plan.share`, unless it is cut off by the frame or by its image's edge
    or another box, an ignore region too, has 30 % of the smaller of the two in common with it. A copy lies on one
    image, clear of the pixels of all boxes, ignore regions and other copies.
    """
    height, width = frame_sides(size)
    rng = np.random.default_rng(plan.seed)
    tickets = rng.random(len(labels))
    boxes = labels.boxes.astype(np.float64)
    tiles = [_Tiles.of(layer, (height, width)) for layer in layers]
    near = boxes + (-0.5, -0.5, 0.5, 0.5)
    whole = (near[:, :2] >= 0).all(1) & (near[:, 2:] <= (width, height)).all(1)
    whole &= np.any([t.hold(near) for t in tiles], 0)
    small = (box_areas(boxes) < SMALL**2) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    candidates = np.flatnonzero((tickets < plan.share) & small & whole & ~labels.ignore)
    taken = np.concatenate((np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])), 1).astype(np.int64)
    owners: list[int] = []
    copies: list[Copy] = []
    for i in candidates[np.argsort(tickets[candidates])].tolist():
        if len(copies) >= MOST:
            break
        if is_shared(i, boxes):
            continue
        source = taken[i]
        for _ in range(int(rng.integers(1, COPIES, endpoint=True))):
            sides = np.maximum(np.rint((source[2:] - source[:2]) * rng.uniform(1 - RESIZED, 1 + RESIZED)), 1)
            place = _free_place(rng, tiles[0], sides.astype(np.int64), taken)
            flip = bool(rng.random() < 0.5)
            if place is not None and len(copies) < MOST:
                owners.append(i)
                copies.append(Copy(tuple(place.tolist()), tuple(source.tolist()), flip))
                taken = np.concatenate((taken, place[None]))
    labels = replace(labels, polygons=None)  # not needed from here on
    if not copies:
        return labels
    moved = np.array([_moved(boxes[i], copy) for i, copy in zip(owners, copies, strict=True)], np.float32)
    return Labels.join([labels, replace(labels[np.array(owners)], boxes=moved, pasted=(), copied=tuple(copies))])


def draw_copied(frame: Array, copied: tuple[Copy, ...]) -> Array:
    """The frame with its copies, drawn in place."""
    for copy in copied:
        x1, y1, x2, y2 = copy.place
        columns, rows = source_pixels(copy)
        frame[y1:y2, x1:x2] = frame[rows[:, None], columns]
    return frame


def copied_pixels(copied: tuple[Copy, ...], width: int) -> Array:
    """(2, Q) int64: numbers of the pixels, row by row, that copies cover, and of those that they show."""
    found = [np.zeros((2, 0), np.int64)]
    for copy in copied:
        x1, y1, x2, y2 = copy.place
        columns, rows = source_pixels(copy)
        to = np.arange(y1, y2)[:, None] * width + np.arange(x1, x2)
        found.append(np.stack((to.ravel(), (rows[:, None] * width + columns).ravel())))
    return np.concatenate(found, 1)


def source_pixels(copy: Copy) -> tuple[Array, Array]:
    """The column of the frame that each column of a copy shows, and the row that each row does: the nearest."""
    axes = []
    for low, high, first, last in zip(copy.place[:2], copy.place[2:], copy.source[:2], copy.source[2:], strict=True):
        steps = (2 * np.arange(high - low) + 1) * (last - first) // (2 * (high - low))  # whole numbers: no rounding
        axes.append(first + steps)
    columns, rows = axes
    return columns[::-1] if copy.flip else columns, rows


def _free_place(rng: np.random.Generator, tiles: _Tiles, sides: Array, taken: Array) -> Array | None:
    """The first of some random places (4,) for `sides` (w, h) on one tile that touches none of `taken` (K, 4)."""
    chosen = np.searchsorted(tiles.shares, rng.random(ATTEMPTS), "right").clip(max=len(tiles.shares) - 1)  # (A,)
    pixels = tiles.pixels[chosen]
    room = pixels[:, 2:] - pixels[:, :2] - sides
    corners = pixels[:, :2] + np.floor(rng.random((ATTEMPTS, 2)) * (room + 1)).astype(np.int64)
    places = np.concatenate((corners, corners + sides), 1)
    common = (np.minimum(places[:, None, 2:], taken[:, 2:]) > np.maximum(places[:, None, :2], taken[:, :2])).all(2)
    free = np.flatnonzero((room >= 0).all(1) & ~common.any(1) & tiles.hold(places.astype(np.float64), chosen))
    return places[free[0]] if len(free) else None


def _moved(box: Array, copy: Copy) -> Array:
    """The box (4,) of the object that a copy shows."""
    place, source = np.array(copy.place), np.array(copy.source)
    factor = (place[2:] - place[:2]) / (source[2:] - source[:2])
    low, high = (box[:2] - source[:2]) * factor, (box[2:] - source[:2]) * factor
    if copy.flip:
        low[0], high[0] = place[2] - place[0] - high[0], place[2] - place[0] - low[0]
    return np.concatenate((place[:2] + low, place[:2] + high))
