"""The policy of YOLOv5 to v8: mosaic, mixup and copy-paste, a random affine, mirroring, gains of HSV.

Legend: S side of the frame; spaces image, canvas and frame as in data.augment.geometry.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from data.augment.colour import hsv_gains
from data.augment.geometry import (
    Array,
    BoxFilter,
    MosaicLayer,
    PlaceRule,
    Size,
    affine_matrix,
    flip_matrix,
    frame_sides,
    is_axis_aligned,
    mosaic9_tiles,
    mosaic_tiles,
    single_tile,
)
from data.augment.plan import Paste, Plan, Scene
from data.augment.policies.policy import Policy
from data.images.letterbox import FILL, plan_letterbox
from utils.errors import UserError

LARGEST = {"degrees": 360.0, "shear": 89.0, "translate": 10.0, "scale_extra": 10.0, "fill": 255}  # of others 1e6
PROBABILITIES = ("mosaic", "mosaic9", "mixup", "copy_paste", "copy_paste_small", "fliplr", "flipud")


@dataclass(frozen=True)
class YoloPolicy(Policy):
    """How far training images are moved, with the names of YOLO's hyper-parameter files; the defaults are v8's."""

    mosaic: float = 1.0  # probability of four images on one canvas
    mosaic9: float = 0.0  # share of the mosaics that have nine images: 0.2 in YOLOv7
    mixup: float = 0.0  # probability of blending a mosaic with another one
    mixup_alpha: float = 32.0  # Beta(a, a) of the blend: 32 in YOLOv5/v8, 8 in YOLOv7
    copy_paste: float = 0.0  # probability of each object to be pasted once more, mirrored, where there is room
    copy_paste_small: float = 0.0  # probability of each object below 32 px to be copied to 1 to 3 free places
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
    fill: int | tuple[int, int, int] = FILL

    pads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        wrong = [f"{name} {getattr(self, name)} is not in [0, 1]" for name in PROBABILITIES
                 if not 0 <= getattr(self, name) <= 1]
        wrong += [f"{f.name} {value:g} is not between 0 and {most:g}" for f in fields(self)
                  if f.name not in PROBABILITIES and not isinstance(getattr(self, f.name), tuple)
                  and not 0 <= (value := getattr(self, f.name)) <= (most := LARGEST.get(f.name, 1e6))]
        wrong += [f"scale {self.scale} leaves nothing of an image: keep it below 1"] * (self.scale >= 1)
        wrong += [f"perspective {self.perspective} folds the image over: keep it to 0.001"] * (
            self.perspective > 0.001)
        wrong += ["mixup_alpha 0 is no Beta distribution: give a positive number"] * (self.mixup_alpha == 0)
        if wrong:
            raise UserError("augmentation settings: " + "; ".join(wrong), "bad-value")

    @property
    def box_filter(self) -> BoxFilter:
        return BoxFilter(self.min_side, self.min_area, self.max_aspect)

    def draw(self, rng: np.random.Generator, scene: Scene) -> Plan:
        """Decide everything about one sample; without `scene.mosaic`, mosaic, mixup and copy-paste are off."""
        flip = flip_matrix(scene.size, rng.random() < self.fliplr, rng.random() < self.flipud)

        def layer(indices: list[int]) -> MosaicLayer:
            return draw_layer(rng, self, indices, [scene.size_of(i) for i in indices], scene.size, flip, scene.place)

        def images() -> int:
            return 9 if self.mosaic9 and rng.random() < self.mosaic9 else 4

        if scene.mosaic and rng.random() < self.mosaic:
            layers = [layer([scene.index, *scene.others(images() - 1)])]
            if rng.random() < self.mixup:
                layers.append(layer(scene.others(images())))
        else:
            layers = [layer([scene.index])]
        blend = float(rng.beta(self.mixup_alpha, self.mixup_alpha)) if len(layers) == 2 else 1.0
        gains = hsv_gains(rng, self.hsv_h, self.hsv_s, self.hsv_v)
        paste = Paste(self.copy_paste, int(rng.integers(2**63))) if scene.mosaic and self.copy_paste else None
        small = None
        if scene.mosaic and self.copy_paste_small:
            small = Paste(self.copy_paste_small, int(rng.integers(2**63)))
        return Plan(tuple(layers), blend, gains, paste, small=small)

    def in_rectangles(self) -> "YoloPolicy":
        return replace(self, mosaic=0.0)

    @property
    def enlarge(self) -> float:
        return 2.0  # images far smaller than the frame would take too much memory

    @property
    def shows_others(self) -> bool:
        return self.mosaic > 0

    @property
    def needs_polygons(self) -> bool:
        return self.copy_paste > 0

    @property
    def smallest_zoom(self) -> float:
        return 1 - self.scale


def draw_affine(rng: np.random.Generator, config: YoloPolicy, canvas: Size, size: Size) -> tuple[Array, float]:
    """A random (3, 3) matrix canvas -> frame, and its zoom."""
    zoom = rng.uniform(1 - config.scale, 1 + config.scale + config.scale_extra)
    matrix = affine_matrix(
        canvas, size, zoom=zoom, angle=rng.uniform(-config.degrees, config.degrees),
        shear=tuple(rng.uniform(-config.shear, config.shear, 2)),
        perspective=tuple(rng.uniform(-config.perspective, config.perspective, 2)),
        shift=tuple(rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)))
    return matrix, zoom


def draw_layer(rng: np.random.Generator, config: YoloPolicy, indices: list[int], sizes: list[tuple[int, int]],
               size: Size, flip: Array, place: PlaceRule = plan_letterbox) -> MosaicLayer:
    """One image, or four or nine in a mosaic (as many as `indices`), seen through a random affine and then `flip`.

    sizes: original (height, width) of each; place: see `Scene`. The centre of a mosaic is uniform in the middle half of
    the canvas, its frame is square, and its images keep their aspect, however one alone is placed.
    """
    side, _ = frame_sides(size)
    if len(indices) == 1:
        tiles, canvas = [single_tile(indices[0], sizes[0], size, place)], size
    elif len(indices) == 9:
        corner = rng.integers(0, side, 2, endpoint=True).tolist()
        tiles, canvas = mosaic9_tiles(indices, sizes, side, tuple(corner)), 2 * side
    else:
        centre = rng.integers(side // 2, side + side // 2, 2, endpoint=True).tolist()
        order = rng.permutation(len(indices)).tolist()
        tiles = mosaic_tiles([indices[k] for k in order], [sizes[k] for k in order], side, tuple(centre))
        canvas = 2 * side
    matrix, zoom = draw_affine(rng, config, canvas, size)
    matrix = flip @ matrix
    if is_axis_aligned(matrix):  # the frame begins with a whole pixel of the canvas, so that a mere resize can draw it
        scale = matrix.diagonal()[:2]
        matrix[:2, 2] = -scale * np.round(-matrix[:2, 2] / scale)
    return MosaicLayer(tuple(tiles), matrix, zoom)
