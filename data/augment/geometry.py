"""Where pixels and boxes go under augmentation. No pixel is touched here, so every rule can be tested on numbers alone.

Legend: S side of the frame (the network's input), or its height and width where it is not square, N boxes. Three
spaces, all continuous pixels with (0, 0) at the outer corner of the first pixel, whose centre is therefore (0.5, 0.5):
  image   one original image, as its labels are given
  canvas  where images are laid out before the affine: 2S x 2S for a mosaic, S x S for one image
  frame   S x S, what the network sees
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.images.letterbox import Place, fit_side, plan_letterbox
from data.labels.records import NO_POLYGON, box_areas

Array = np.ndarray
Size = int | tuple[int, int]  # of a frame: S, or height and width
PlaceRule = Callable[[tuple[int, int], Size], Place]  # where an image of (height, width) lies in a frame


@dataclass(frozen=True)
class Tile:
    """One image laid on the canvas: image `index`, stretched by `scale` (x, y), its corner at `offset` (x, y).

    region: x1, y1, x2, y2 of the part that lies on the canvas.
    """

    index: int
    scale: tuple[float, float]
    offset: tuple[float, float]
    region: tuple[float, float, float, float]

    def matrix(self) -> Array:
        """(3, 3) image -> canvas."""
        return scaling(*self.scale, *self.offset)


@dataclass(frozen=True)
class MosaicLayer:
    """Tiles on one canvas, and the (3, 3) matrix canvas -> frame; `zoom` is the matrix's nominal enlargement.

    crop: x1, y1, x2, y2 of the canvas where the frame shows just that, upright; labels whose centre lies outside are
    then left out, other than ignore regions.
    """

    tiles: tuple[Tile, ...]
    matrix: Array
    zoom: float
    crop: tuple[float, float, float, float] | None = None


class Copy(NamedTuple):
    """A part of a frame, pixels x1, y1, x2, y2, that shows the part `source` of the same frame in its own size,
    mirrored where `flip` says so."""

    place: tuple[int, int, int, int]
    source: tuple[int, int, int, int]
    flip: bool


@dataclass(frozen=True)
class Labels:
    """Labels of one image as arrays: boxes (N, 4) float32 xyxy, labels (N,) int64, ignore (N,) bool (crowd regions).

    polygons: an outline (k, 2) per label in the space of the boxes, k = 0 where it has none; None where none was read.
    pasted: outlines of the parts of a frame that show its mirror image (`data.augment.copy_paste`), in drawing order.
    copied: parts of it that show others (`data.augment.copy_small`), drawn after those.
    """

    boxes: Array
    labels: Array
    ignore: Array
    polygons: "list[Array] | None" = None
    pasted: "tuple[Array, ...]" = ()
    copied: "tuple[Copy, ...]" = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Array) -> "Labels":
        polygons = self.polygons
        if polygons is not None:
            polygons = [polygons[i] for i in np.arange(len(self))[keep]]
        return Labels(self.boxes[keep], self.labels[keep], self.ignore[keep], polygons, self.pasted, self.copied)

    @classmethod
    def join(cls, parts: "list[Labels]") -> "Labels":
        """All labels of several images."""
        if len(parts) == 1:
            return parts[0]
        polygons = None
        if any(p.polygons is not None for p in parts):
            polygons = [polygon for p in parts for polygon in p.polygons or [NO_POLYGON] * len(p)]
        arrays = (np.concatenate([getattr(p, name) for p in parts]) for name in ("boxes", "labels", "ignore"))
        return cls(*arrays, polygons, tuple(outline for p in parts for outline in p.pasted),
                   tuple(copy for p in parts for copy in p.copied))

    @classmethod
    def unknown(cls, height: int, width: int) -> "Labels":
        """What is known of an image that cannot be read: nothing, so all of it is an ignore region."""
        return cls(np.array([[0, 0, width, height]], np.float32), np.zeros(1, np.int64), np.ones(1, bool))


@dataclass(frozen=True)
class BoxFilter:
    """Which boxes survive an affine, by the rules of YOLOv5 and v8.

    Both sides above `min_side` px in the frame, more than `min_area` of the area still visible, the longer side less
    than `max_aspect` times the shorter. Ignore regions stay if any area is left.
    """

    min_side: float = 2.0
    min_area: float = 0.1
    max_aspect: float = 100.0

    def __call__(self, before: Array, after: Array, zoom: float, ignore: Array) -> Array:
        """before (N, 4) on the canvas, after (N, 4) in the frame -> (N,) bool."""
        width, height = (after[:, 2:] - after[:, :2]).T
        visible = width * height
        whole = box_areas(before) * zoom**2
        longer, shorter = np.maximum(width, height), np.minimum(width, height)
        keep = (shorter > self.min_side) & (visible > self.min_area * whole) & (longer < self.max_aspect * shorter)
        return np.where(ignore, visible > 0, keep)


def scaling(sx: float, sy: float, dx: float = 0.0, dy: float = 0.0) -> Array:
    """(3, 3): x -> sx * x + dx, y -> sy * y + dy."""
    return np.array([[sx, 0, dx], [0, sy, dy], [0, 0, 1]], np.float64)


def frame_sides(size: Size) -> tuple[int, int]:
    """(height, width) of a frame."""
    return (size, size) if isinstance(size, int) else size


def flip_matrix(size: Size, horizontal: bool, vertical: bool) -> Array:
    """(3, 3) mirror of a frame; its own inverse."""
    height, width = frame_sides(size)
    sx, sy = (-1 if horizontal else 1), (-1 if vertical else 1)
    return scaling(sx, sy, width if horizontal else 0, height if vertical else 0)


def mosaic_tiles(indices: list[int], sizes: list[tuple[int, int]], side: int,
                 centre: tuple[float, float]) -> list[Tile]:
    """Four images around `centre` (x, y) of a 2S canvas: top left, top right, bottom left, bottom right.

    sizes: original (height, width); each is resized to longest side S and touches the centre with its inner corner.
    """
    cx, cy = centre
    tiles = []
    for place, (index, (height, width)) in enumerate(zip(indices, sizes, strict=True)):
        h, w = fit_side((height, width), side)
        x, y = (cx - w if place % 2 == 0 else cx), (cy - h if place < 2 else cy)
        region = (max(x, 0.0), max(y, 0.0), min(x + w, 2.0 * side), min(y + h, 2.0 * side))
        tiles.append(Tile(index, (w / width, h / height), (x, y), region))
    return tiles


def mosaic9_tiles(indices: list[int], sizes: list[tuple[int, int]], side: int, corner: tuple[int, int]) -> list[Tile]:
    """Nine images around the first one, seen through a 2S window whose corner (x, y) lies in [0, S] of a 3S canvas.

    Each is resized to longest side S. The first lies in the middle; the edges of it, drawn out, divide the canvas into
    nine cells. Every other image touches it from its cell, row by row from the top left, and is cut where it would
    reach into another cell. Tiles that the window does not show are left out; the first is never.
    """
    fitted = [fit_side(size, side) for size in sizes]
    (h0, w0), inf = fitted[0], float("inf")
    lines_x, lines_y = ((3 * side - w0) // 2, (3 * side + w0) // 2), ((3 * side - h0) // 2, (3 * side + h0) // 2)
    tiles = []
    for k, place in enumerate((4, 0, 1, 2, 3, 5, 6, 7, 8)):  # the first in the middle of the nine
        (h, w), (height, width) = fitted[k], sizes[k]
        spans = []
        for cell, (low, high), length in ((place % 3, lines_x, w), (place // 3, lines_y, h)):
            start = low - length if cell == 0 else low if cell == 1 else high
            spans.append((start, *((-inf, low), (low, high), (high, inf))[cell], length))
        (x, left, right, _), (y, top, bottom, _) = spans
        region = [max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)]
        region = [float(min(max(v - at, 0), 2 * side)) for v, at in zip(region, corner * 2, strict=True)]
        if region[0] < region[2] and region[1] < region[3]:
            tiles.append(Tile(indices[k], (w / width, h / height), (x - corner[0], y - corner[1]), tuple(region)))
    return tiles


def single_tile(index: int, size: tuple[int, int], canvas: Size,
                place: PlaceRule = plan_letterbox) -> Tile:
    """One image of `size` (height, width) on a canvas, letterboxed or as `place` says."""
    (h, w), transform = place(size, canvas)
    x, y = transform.pad
    return Tile(index, transform.scale, (x, y), (x, y, x + w, y + h))


def affine_matrix(canvas: Size, size: Size, *, angle: float = 0.0, zoom: float = 1.0,
                  shear: tuple[float, float] = (0, 0), perspective: tuple[float, float] = (0, 0),
                  shift: tuple[float, float] = (0.5, 0.5)) -> Array:
    """(3, 3) canvas -> frame about the canvas centre, composed as in YOLOv5: T(shift) @ shear @ R(angle, zoom) @ P @ C.

    angle and shear in degrees; perspective in 1/pixel; shift: where the centre lands, in frame sides.
    """
    (height, width), (frame_height, frame_width) = frame_sides(canvas), frame_sides(size)
    centre = scaling(1, 1, -width / 2, -height / 2)
    bend = np.eye(3)
    bend[2, :2] = perspective
    cos, sin = zoom * np.cos(np.radians(angle)), zoom * np.sin(np.radians(angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.eye(3)
    slant[0, 1], slant[1, 0] = np.tan(np.radians(shear))
    return scaling(1, 1, shift[0] * frame_width, shift[1] * frame_height) @ slant @ turn @ bend @ centre


def is_axis_aligned(matrix: Array) -> bool:
    """True where upright boxes stay upright boxes: scale, shift and mirror only."""
    return matrix[0, 1] == matrix[1, 0] == matrix[2, 0] == matrix[2, 1] == 0


def project(matrix: Array, points: Array) -> Array:
    """(..., 2) points through a (3, 3) matrix. Points at or behind the horizon go as far as floats allow, not wild."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]  # (..., 3)
    return mapped[..., :2] / np.maximum(mapped[..., 2:], 1e-6)


def transform_boxes(matrix: Array, boxes: Array) -> Array:
    """(N, 4) xyxy through a (3, 3) matrix -> (N, 4) float64 hulls of the four moved corners."""
    boxes = np.asarray(boxes, np.float64)
    if is_axis_aligned(matrix):
        ends = boxes.reshape(-1, 2, 2) * (matrix[0, 0], matrix[1, 1]) + (matrix[0, 2], matrix[1, 2])
        return np.concatenate((ends.min(1), ends.max(1)), 1)
    corners = project(matrix, boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))  # (N, 4, 2)
    return np.concatenate((corners.min(1), corners.max(1)), 1)


def clip(boxes: Array, region: tuple[float, float, float, float]) -> Array:
    """(N, 4) cut to x1, y1, x2, y2; what lies outside ends with no area."""
    x1, y1, x2, y2 = region
    return np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2))


def layer_labels(layer: MosaicLayer, labels: list[Labels], size: Size, keep: BoxFilter) -> Labels:
    """The labels of a layer's tiles (one per tile, original pixels) in the frame, cut to it and filtered."""
    counts = [len(part) for part in labels]
    joined = Labels.join(labels)
    # (N, 4, 4): scale, offset and both corners of the region of each label's tile; all at once, since calls cost more
    # than what they compute.
    tiles = np.array([(t.scale * 2, t.offset * 2, t.region[:2] * 2, t.region[2:] * 2) for t in layer.tiles])
    scale, offset, low, high = np.repeat(tiles, counts, 0).transpose(1, 0, 2)
    before = np.minimum(np.maximum(joined.boxes * scale + offset, low), high)
    height, width = frame_sides(size)
    after = clip(transform_boxes(layer.matrix, before), (0, 0, width, height))
    kept = keep(before, after, layer.zoom, joined.ignore)
    if layer.crop is not None:
        kept &= centres_inside(np.array(layer.crop), before) | joined.ignore
    polygons = None if joined.polygons is None else [
        polygon for tile, part in zip(layer.tiles, labels, strict=True) for polygon in _to_frame(layer, tile, part)]
    return Labels(after.astype(np.float32), joined.labels, joined.ignore, polygons)[kept]


def centres_inside(regions: Array, boxes: Array) -> Array:
    """Regions (..., 4), boxes (N, 4) -> (..., N) bool: the box's centre lies inside the region, not on its edge."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = regions[..., None, :2], regions[..., None, 2:]
    return ((low < centres) & (centres < high)).all(-1)


def cut_outlines(points: Array, ends: Array, region: tuple[float, float, float, float]) -> tuple[Array, Array]:
    """Outlines (K, 2), each ending where `ends` (M,) says, cut to x1, y1, x2, y2: points (5K, 2) and their ends.

    Every edge gets a point where it crosses one of the four lines of the region. Then no edge lies on both sides of a
    line, and moving each point to the nearest one of the region encloses just what the outline encloses of it.
    """
    following = np.arange(1, len(points) + 1)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))
    filled = starts < ends
    following[ends[filled] - 1] = starts[filled]
    step = points[following] - points
    low, high = np.array(region[:2]), np.array(region[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.concatenate(((low - points) / step, (high - points) / step), 1)  # (K, 4) of the way along the edge
    share = np.sort(np.clip(np.where(np.isfinite(share), share, 0.0), 0, 1), 1)
    share = np.concatenate((np.zeros((len(points), 1)), share), 1)
    dense = points[:, None] + share[..., None] * step[:, None]  # (K, 5, 2)
    return np.clip(dense, low, high).reshape(-1, 2), ends * share.shape[1]


def _to_frame(layer: MosaicLayer, tile: Tile, labels: Labels) -> list[Array]:
    """The outlines of one tile's labels in the frame, cut to what the canvas shows of the tile; float32."""
    if not len(labels):
        return []
    polygons = labels.polygons or [NO_POLYGON] * len(labels)
    ends = np.cumsum([len(p) for p in polygons])
    points, ends = cut_outlines(project(tile.matrix(), np.concatenate(polygons).astype(np.float64)), ends, tile.region)
    return np.split(project(layer.matrix, points).astype(np.float32), ends[:-1])
