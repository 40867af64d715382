"""Training augmentation in two steps: chance decides a `Plan` (numbers only), then pixels and labels follow it.

Because a plan holds all chance, the pixels can be drawn anywhere: `render_layer` here does it with OpenCV, each source
warped straight onto the S x S frame instead of onto a 2S x 2S canvas that is then warped: a quarter of the memory, one
interpolation instead of two, and a source that the frame does not show is never decoded.

Legend: S side of the frame; spaces image, canvas and frame as in data.geometry; images (H, W, 3) BGR uint8.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np

from data.colour import adjust_hsv, hsv_gains
from data.geometry import (
    Array,
    BoxFilter,
    Labels,
    Layer,
    Tile,
    affine_matrix,
    clip,
    flip_matrix,
    is_axis_aligned,
    layer_labels,
    mosaic_tiles,
    project,
    scaling,
    single_tile,
    transform_boxes,
)
from data.images import Scale
from data.letterbox import FILL
from utils.errors import UserError

PROBABILITIES = ("mosaic", "mixup", "fliplr", "flipud")
LoadImage = Callable[[int, float], "tuple[Array, Scale] | None"]  # (index, needed scale) -> image and its own scale


@dataclass(frozen=True)
class AugmentConfig:
    """How far training images are moved, with the names of YOLO's hyper-parameter files; the defaults are v8's."""

    mosaic: float = 1.0  # probability of four images on one canvas
    mixup: float = 0.0  # probability of blending a mosaic with another one
    mixup_alpha: float = 32.0  # Beta(a, a) of the blend: 32 in YOLOv5/v8, 8 in YOLOv7
    degrees: float = 0.0  # rotation, +-
    translate: float = 0.1  # shift, +- fraction of the frame
    scale: float = 0.5  # zoom in [1 - scale, 1 + scale + scale_extra]
    scale_extra: float = 0.0  # YOLOv7: 0.1
    shear: float = 0.0  # degrees, +-
    perspective: float = 0.0  # +- per pixel; useful to 0.001
    hsv_h: float = 0.015  # hue, saturation, value: gains of 1 +- this
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    fliplr: float = 0.5  # probabilities of mirroring
    flipud: float = 0.0
    min_side: float = 2.0  # of a box after the affine, px
    min_area: float = 0.1  # of a box's area that must stay visible; 0.01 in YOLOv7 with polygons
    max_aspect: float = 100.0  # 20 in YOLOv7
    fill: int = FILL

    def __post_init__(self) -> None:
        wrong = [f"{name} {getattr(self, name)} is not in [0, 1]" for name in PROBABILITIES
                 if not 0 <= getattr(self, name) <= 1]
        wrong += [f"{f.name} {getattr(self, f.name)} is negative" for f in fields(self)
                  if f.name not in PROBABILITIES and not getattr(self, f.name) >= 0]
        wrong += [f"scale {self.scale} leaves nothing of an image: keep it below 1"] * (self.scale >= 1)
        wrong += [f"perspective {self.perspective} turns the image inside out: keep it to 0.001"] * (
            self.perspective > 0.001)
        wrong += ["mixup_alpha 0 is no Beta distribution: give a positive number"] * (self.mixup_alpha == 0)
        if wrong:
            raise UserError("augmentation settings: " + "; ".join(wrong))

    @property
    def box_filter(self) -> BoxFilter:
        return BoxFilter(self.min_side, self.min_area, self.max_aspect)


@dataclass(frozen=True)
class Plan:
    """All that chance decided for one sample: one layer, or two blended, `blend` being the weight of the first."""

    layers: tuple[Layer, ...]
    blend: float
    hsv: tuple[float, float, float]


def draw_affine(rng: np.random.Generator, config: AugmentConfig, canvas: int, size: int) -> tuple[Array, float]:
    """A random (3, 3) matrix canvas -> frame, and its zoom."""
    zoom = rng.uniform(1 - config.scale, 1 + config.scale + config.scale_extra)
    matrix = affine_matrix(
        canvas, size, zoom=zoom, angle=rng.uniform(-config.degrees, config.degrees),
        shear=tuple(rng.uniform(-config.shear, config.shear, 2)),
        perspective=tuple(rng.uniform(-config.perspective, config.perspective, 2)),
        shift=tuple(rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)))
    return matrix, zoom


def draw_layer(rng: np.random.Generator, config: AugmentConfig, indices: list[int], sizes: list[tuple[int, int]],
               size: int, flip: Array) -> Layer:
    """One image, or four in a mosaic (as many as `indices`), seen through a random affine and then `flip`.

    sizes: original (height, width) of each; the centre of a mosaic is uniform in the middle half of the canvas.
    """
    if len(indices) == 1:
        tiles, canvas = [single_tile(indices[0], sizes[0], size)], size
    else:
        centre = rng.integers(size // 2, size + size // 2, 2, endpoint=True).tolist()
        order = rng.permutation(len(indices)).tolist()
        tiles = mosaic_tiles([indices[k] for k in order], [sizes[k] for k in order], size, tuple(centre))
        canvas = 2 * size
    matrix, zoom = draw_affine(rng, config, canvas, size)
    return Layer(tuple(tiles), flip @ matrix, zoom)


def draw_plan(rng: np.random.Generator, config: AugmentConfig, index: int, partners: Callable[[int], list[int]],
              size_of: Callable[[int], tuple[int, int]], size: int, mosaic: bool = True) -> Plan:
    """Decide everything about one sample.

    partners(k) names k images to go with `index`; size_of(i) is image i's (height, width). `mosaic` False turns mosaic
    and mixup off, as at the end of training.
    """
    flip = flip_matrix(size, rng.random() < config.fliplr, rng.random() < config.flipud)

    def layer(indices: list[int]) -> Layer:
        return draw_layer(rng, config, indices, [size_of(i) for i in indices], size, flip)

    if mosaic and rng.random() < config.mosaic:
        layers = [layer([index, *partners(3)])]
        if rng.random() < config.mixup:
            layers.append(layer(partners(4)))
    else:
        layers = [layer([index])]
    blend = float(rng.beta(config.mixup_alpha, config.mixup_alpha)) if len(layers) == 2 else 1.0
    return Plan(tuple(layers), blend, hsv_gains(rng, config.hsv_h, config.hsv_s, config.hsv_v))


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
