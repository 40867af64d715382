"""Training augmentation, second step: pixels and labels follow a `Plan`, with OpenCV.

Each source is warped straight onto the S x S frame instead of onto a 2S x 2S canvas that is then warped: a quarter of
the memory, one interpolation instead of two, and a source that the frame does not show is never decoded.

Legend: S side of the frame; spaces image, canvas and frame as in data.geometry; images (H, W, 3) BGR uint8.
"""

from collections.abc import Callable

import cv2
import numpy as np

from data.augment import AugmentConfig, Plan
from data.colour import adjust_hsv
from data.geometry import (
    Array,
    Labels,
    Layer,
    Tile,
    clip,
    is_axis_aligned,
    layer_labels,
    project,
    scaling,
    transform_boxes,
)
from data.images import Scale
from data.letterbox import FILL

LoadImage = Callable[[int, float], "tuple[Array, Scale] | None"]  # (index, needed scale) -> image and its own scale


def apply_plan(plan: Plan, load: LoadImage, labels_of: Callable[[int], Labels],
               size_of: Callable[[int], tuple[int, int]], size: int, config: AugmentConfig) -> tuple[Array, Labels]:
    """Carry out a plan: the frame (S, S, 3) RGB uint8 and the labels in it.

    The part of the frame where an image should be that `load` could not give becomes an ignore region.
    """
    frames, parts = [], []
    for layer in plan.layers:
        frame, damaged = render_layer(layer, size, load, config.fill)
        labels = [Labels.unknown(*size_of(t.index)) if t.index in damaged else labels_of(t.index) for t in layer.tiles]
        frames.append(frame)
        parts.append(layer_labels(layer, labels, size, config.box_filter))
    frame = frames[0] if len(frames) == 1 else mixup(*frames, plan.blend)
    return adjust_hsv(frame, plan.hsv), Labels.join(parts)


def mixup(first: Array, second: Array, weight: float) -> Array:
    """weight * first + (1 - weight) * second, both uint8 of one shape."""
    return cv2.addWeighted(first, weight, second, 1 - weight, 0)


def render_layer(layer: Layer, size: int, load: LoadImage, fill: int = FILL) -> tuple[Array, set[int]]:
    """Draw a layer's tiles on an (S, S, 4) BGRA frame; also the indices of images that could not be loaded.

    Four channels because OpenCV warps them in less than half the time of three.
    """
    frame = np.full((size, size, 4), fill, np.uint8)
    damaged: set[int] = set()
    inside = None if is_axis_aligned(layer.matrix) else _canvas_grid(layer.matrix, size)
    for tile in layer.tiles:
        box = _pixels_of(layer.matrix, tile, size)
        if box is None:
            continue
        to_frame = layer.matrix @ tile.matrix()
        # Under a perspective the scale differs from place to place: ask for every pixel.
        flat = to_frame[2, 0] == to_frame[2, 1] == 0
        loaded = load(tile.index, float(np.abs(to_frame[:2, :2]).sum(1).max()) if flat else 1.0)
        if loaded is None:
            damaged.add(tile.index)
            continue
        image, (sx, sy) = loaded
        _warp_tile(frame, image, to_frame @ scaling(1 / sx, 1 / sy), box,
                   None if inside is None else _mask(inside, tile, box))
    return frame, damaged


def _warp_tile(frame: Array, image: Array, matrix: Array, box: tuple[int, int, int, int], mask: Array | None) -> None:
    """Draw `image` through `matrix` (its pixels -> frame) on the pixels `box` (x1, y1, x2, y2) of `frame`.

    mask (h, w) uint8 limits the drawing inside the box; None draws all of it.
    """
    x1, y1, x2, y2 = box
    back = np.linalg.inv(matrix)
    # Only the part of the source that the box shows is converted; two pixels more feed the interpolation at its edge.
    seen = transform_boxes(back, np.array([[x1, y1, x2, y2]]))[0]
    height, width = image.shape[:2]
    left, top = (int(np.clip(np.floor(v) - 2, 0, n - 1)) for v, n in zip(seen[:2], (width, height), strict=True))
    right, bottom = (int(np.clip(np.ceil(v) + 2, k + 1, n)) for v, k, n in
                     zip(seen[2:], (left, top), (width, height), strict=True))
    source = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2BGRA)
    # OpenCV counts from pixel centres, the house from pixel corners: hence the halves.
    index_map = scaling(1, 1, -left - 0.5, -top - 0.5) @ back @ scaling(1, 1, x1 + 0.5, y1 + 0.5)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = frame[y1:y2, x1:x2]
    target = view if mask is None else None
    if matrix[2, 0] == matrix[2, 1] == 0:
        drawn = cv2.warpAffine(source, index_map[:2], (x2 - x1, y2 - y1), dst=target, flags=flags,
                               borderMode=cv2.BORDER_REPLICATE)
    else:
        drawn = cv2.warpPerspective(source, index_map, (x2 - x1, y2 - y1), dst=target, flags=flags,
                                    borderMode=cv2.BORDER_REPLICATE)
    if mask is not None:
        cv2.copyTo(drawn, mask, view)


def _pixels_of(matrix: Array, tile: Tile, size: int) -> tuple[int, int, int, int] | None:
    """The pixels x1, y1, x2, y2 of the frame whose centres may lie on a tile; None where there are none.

    Centres are compared with half-open intervals, so upright neighbours share no pixel and leave none between them.
    """
    hull = clip(transform_boxes(matrix, np.array([tile.region])), (0, 0, size, size))[0]
    x1, y1, x2, y2 = np.ceil(hull - 0.5).astype(int).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _canvas_grid(matrix: Array, size: int) -> Array:
    """(S, S, 2) float32: the canvas point under the centre of every frame pixel."""
    centres = np.arange(size) + 0.5
    x, y = np.meshgrid(centres, centres)
    return project(np.linalg.inv(matrix), np.stack((x, y), -1)).astype(np.float32)


def _mask(grid: Array, tile: Tile, box: tuple[int, int, int, int]) -> Array:
    """(h, w) uint8, 255 where a pixel of `box` lies on the tile's region."""
    x1, y1, x2, y2 = tile.region
    x, y = grid[box[1]:box[3], box[0]:box[2], 0], grid[box[1]:box[3], box[0]:box[2], 1]
    return ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).view(np.uint8) * 255
