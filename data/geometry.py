"""Where pixels and boxes go under augmentation. No pixel is touched here, so every rule can be tested on numbers alone.

Legend: S side of the frame (the network's input), N boxes. Three spaces, all continuous pixels with (0, 0) at the outer
corner of the first pixel, whose centre is therefore (0.5, 0.5):
  image   one original image, as its labels are given
  canvas  where images are laid out before the affine: 2S x 2S for a mosaic, S x S for one image
  frame   S x S, what the network sees
"""

from dataclasses import dataclass

import numpy as np

from data.letterbox import fit_side, plan_letterbox

Array = np.ndarray


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
class Layer:
    """Tiles on one canvas, and the (3, 3) matrix canvas -> frame; `zoom` is the matrix's nominal enlargement."""

    tiles: tuple[Tile, ...]
    matrix: Array
    zoom: float


@dataclass(frozen=True)
class Labels:
    """Labels of one image as arrays: boxes (N, 4) float32 xyxy, labels (N,) int64, ignore (N,) bool (crowd regions)."""

    boxes: Array
    labels: Array
    ignore: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Array) -> "Labels":
        return Labels(self.boxes[keep], self.labels[keep], self.ignore[keep])

    @classmethod
    def join(cls, parts: "list[Labels]") -> "Labels":
        """All labels of several images."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("boxes", "labels", "ignore")))

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
        whole = np.prod(before[:, 2:] - before[:, :2], 1) * zoom**2
        longer, shorter = np.maximum(width, height), np.minimum(width, height)
        keep = (shorter > self.min_side) & (visible > self.min_area * whole) & (longer < self.max_aspect * shorter)
        return np.where(ignore, visible > 0, keep)


def scaling(sx: float, sy: float, dx: float = 0.0, dy: float = 0.0) -> Array:
    """(3, 3): x -> sx * x + dx, y -> sy * y + dy."""
    return np.array([[sx, 0, dx], [0, sy, dy], [0, 0, 1]], np.float64)


def flip_matrix(size: int, horizontal: bool, vertical: bool) -> Array:
    """(3, 3) mirror of an S x S frame; its own inverse."""
    sx, sy = (-1 if horizontal else 1), (-1 if vertical else 1)
    return scaling(sx, sy, size if horizontal else 0, size if vertical else 0)


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


def single_tile(index: int, size: tuple[int, int], side: int) -> Tile:
    """One image letterboxed onto an S x S canvas."""
    (h, w), transform = plan_letterbox(size, side)
    x, y = transform.pad
    return Tile(index, transform.scale, (x, y), (x, y, x + w, y + h))


def affine_matrix(canvas: int, size: int, *, angle: float = 0.0, zoom: float = 1.0, shear: tuple[float, float] = (0, 0),
                  perspective: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0.5, 0.5)) -> Array:
    """(3, 3) canvas -> frame about the canvas centre, composed as in YOLOv5: T(shift) @ shear @ R(angle, zoom) @ P @ C.

    angle and shear in degrees; perspective in 1/pixel; shift: where the centre lands, in frame sides.
    """
    centre = scaling(1, 1, -canvas / 2, -canvas / 2)
    bend = np.eye(3)
    bend[2, :2] = perspective
    cos, sin = zoom * np.cos(np.radians(angle)), zoom * np.sin(np.radians(angle))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.eye(3)
    slant[0, 1], slant[1, 0] = np.tan(np.radians(shear))
    return scaling(1, 1, shift[0] * size, shift[1] * size) @ slant @ turn @ bend @ centre


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


def layer_labels(layer: Layer, labels: list[Labels], size: int, keep: BoxFilter) -> Labels:
    """The labels of a layer's tiles (one per tile, original pixels) in the frame, cut to it and filtered."""
    on_canvas = [clip(transform_boxes(tile.matrix(), part.boxes), tile.region)
                 for tile, part in zip(layer.tiles, labels, strict=True)]
    before = np.concatenate(on_canvas)
    after = clip(transform_boxes(layer.matrix, before), (0, 0, size, size))
    joined = Labels.join(labels)
    kept = keep(before, after, layer.zoom, joined.ignore)
    return Labels(after[kept].astype(np.float32), joined.labels[kept], joined.ignore[kept])
