"""The policy of SSD: photometric distortion, expansion, a crop by overlap, mirroring, and a stretch to the frame.

Liu et al. 2016 (arXiv 1512.02325), sections 2.2 and 3.6, with the ranges of the Caffe code. Expansion, crop, mirror and
stretch are one matrix, so that no larger canvas is laid out and no pixel is resampled twice. Nothing of three slips of
the published PyTorch codes is repeated (docs/data.md): the crop's bound that never holds, the fill of ASSD that is
black, and corners that never lie in an image's first pixel.

Legend: N objects of an image, T tries; coordinates are continuous pixels of the image itself, of which the expanded
canvas and the crop may show more than there is.
"""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from data.augment.geometry import (
    Array,
    BoxFilter,
    MosaicLayer,
    Size,
    Tile,
    centres_inside,
    flip_matrix,
    frame_sides,
    scaling,
)
from data.augment.photometric import Photometric
from data.augment.plan import Plan, Scene
from data.augment.policies.policy import Policy
from data.labels.records import box_areas
from utils.config import is_number, is_whole
from utils.errors import UserError, shown

Region = tuple[int, int, int, int]  # x1, y1, x2, y2
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))  # of the channels
WHOLE, ANY = "whole", 0.0
# What a crop is chosen from: the whole canvas, or the least overlap with some object; ANY asks for none.
CROPS = {"paper": (WHOLE, 0.1, 0.3, 0.5, 0.7, 0.9, ANY), "code": (WHOLE, ANY, ANY, ANY, ANY, ANY), "none": (WHOLE,)}
TRIES = 50  # of a crop before another choice is made
ASPECTS = 0.5, 2.0  # of a crop, height / width
# Least and greatest value; those of probabilities are 0 and 1.
RANGES = {"brightness": (0.0, 255.0), "contrast": (0.0, 1.0), "saturation": (0.0, 1.0), "hue": (0.0, 180.0),
          "expand_ratio": (1.0, 16.0), "smallest_crop": (0.05, 1.0)}


@dataclass(frozen=True)
class SsdPolicy(Policy):
    """How training images are distorted, expanded and cropped; the defaults are those of SSD."""

    brightness: float = 32.0  # +-, of 255
    contrast: float = 0.5  # gain of 1 +- this
    saturation: float = 0.5  # gain of 1 +- this
    hue: float = 18.0  # +- degrees
    distort: float = 0.5  # probability of each of these four
    swap_channels: float = 0.5  # probability of another order of the channels, any of the six
    expand: float = 0.5  # probability of a larger canvas around the image
    expand_ratio: float = 4.0  # of its sides, at most
    fill: tuple[int, int, int] = (123, 117, 104)  # RGB around an expanded image: the mean colour
    iou_crop: str = "paper"  # "code": without a bound on the overlap, as published codes do it; "none": no crop
    smallest_crop: float = 0.3  # least share of the canvas's width, and of its height
    fliplr: float = 0.5  # probability of mirroring

    fit: ClassVar[str] = "stretch"

    def __post_init__(self) -> None:
        if isinstance(self.fill, list):  # as YAML gives it
            object.__setattr__(self, "fill", tuple(self.fill))
        wrong = []
        for name in (f.name for f in fields(self) if f.name not in ("fill", "iou_crop")):
            least, most = RANGES.get(name, (0.0, 1.0))
            if not is_number(getattr(self, name), least, most):
                wrong.append(f"{name} {shown(getattr(self, name))} is not between {least:g} and {most:g}")
        if not (isinstance(self.fill, tuple) and len(self.fill) == 3 and all(is_whole(v, 0, 255) for v in self.fill)):
            wrong.append(f"fill {shown(self.fill)} is not [red, green, blue], whole numbers from 0 to 255")
        if self.iou_crop not in CROPS:
            wrong.append(f"iou_crop {shown(self.iou_crop)} is not one of {', '.join(CROPS)}")
        if wrong:
            raise UserError("augmentation settings: " + "; ".join(wrong), "bad-value")

    def draw(self, rng: np.random.Generator, scene: Scene) -> Plan:
        """Decide everything about one sample. Ignore regions do not steer the crop; see `draw_crop` for an image
        without objects."""
        size = scene.size_of(scene.index)
        labels = scene.labels_of(scene.index)
        colour = draw_photometric(rng, self)
        canvas = draw_canvas(rng, self, size)
        crop = draw_crop(rng, self, canvas, size, labels.boxes[~labels.ignore].astype(np.float64))
        layer = crop_layer(scene.index, size, crop, rng.random() < self.fliplr, scene.size)
        return Plan((layer,), 1.0, colour)

    def in_rectangles(self) -> "SsdPolicy":
        raise UserError("--rect fits frames to the images of a batch, but the recipe's augmentation policy, ssd, "
                        "stretches crops of any aspect to the frame: drop --rect, or take a recipe with policy: yolo",
                        "flag-conflict")

    @property
    def box_filter(self) -> BoxFilter:
        """Boxes are chosen by their centres (`MosaicLayer.crop`); however thin, they stay."""
        return BoxFilter(0.0, 0.0, 1e12)

    @property
    def detail(self) -> float:
        return 1 / self.smallest_crop if self.iou_crop != "none" else 1.0

    @property
    def smallest_zoom(self) -> float:
        return 1 / (self.detail * (self.expand_ratio if self.expand else 1.0))


def crop_layer(index: int, size: tuple[int, int], crop: Region, mirrored: bool, frame: Size) -> MosaicLayer:
    """Image `index` of `size` (height, width), of which the frame shows `crop`, stretched and perhaps mirrored."""
    (height, width), (frame_height, frame_width) = size, frame_sides(frame)
    x1, y1, x2, y2 = crop
    sx, sy = frame_width / (x2 - x1), frame_height / (y2 - y1)
    matrix = flip_matrix(frame, mirrored, False) @ scaling(sx, sy, -x1 * sx, -y1 * sy)
    tile = Tile(index, (1.0, 1.0), (0.0, 0.0), (0.0, 0.0, float(width), float(height)))
    return MosaicLayer((tile,), matrix, float(np.sqrt(sx * sy)), crop)


def draw_photometric(rng: np.random.Generator, config: SsdPolicy) -> Photometric:
    """Random distortions; every number is drawn whether it is used or not."""
    change = np.where(rng.random(4) < config.distort, rng.uniform(-1, 1, 4), 0.0).tolist()
    swap, order = rng.random() < config.swap_channels, int(rng.integers(len(ORDERS)))
    return Photometric(
        change[0] * config.brightness, 1 + change[1] * config.contrast, bool(rng.integers(2)),
        1 + change[2] * config.saturation, change[3] * config.hue, ORDERS[order if swap else 0])


def draw_canvas(rng: np.random.Generator, config: SsdPolicy, size: tuple[int, int]) -> Region:
    """The canvas around an image of `size` (height, width), in the image's coordinates: its own area, or a larger one
    with the image at a random place in it."""
    drawn, ratio, across, down = rng.random(), rng.uniform(1, config.expand_ratio), *rng.random(2)
    return expanded(size, ratio, across, down) if drawn < config.expand else (0, 0, size[1], size[0])


def expanded(size: tuple[int, int], ratio: float, across: float, down: float) -> Region:
    """A canvas with sides `ratio` times those of the image, which lies at the shares `across` and `down` of the way."""
    height, width = size
    left, top = int(across * (width * ratio - width)), int(down * (height * ratio - height))
    return -left, -top, int(width * ratio) - left, int(height * ratio) - top


def draw_crop(rng: np.random.Generator, config: SsdPolicy, canvas: Region, size: tuple[int, int],
              boxes: Array) -> Region:
    """The part of the canvas that is shown, around the centre of one of the objects (N, 4) at least.

    One of `CROPS` is chosen; where 50 tries do not meet it, another one. An image without objects (N = 0) shows the
    whole canvas as often as others do, and else a crop of any overlap that has some of the image in it.
    """
    choices = CROPS[config.iou_crop]
    while True:
        choice = choices[int(rng.integers(len(choices)))]
        if choice == WHOLE:
            return canvas
        found = first_crop(canvas, rng.random((TRIES, 4)), choice, boxes, size, config.smallest_crop)
        if found is not None:
            return found


def first_crop(canvas: Region, shares: Array, bound: float, boxes: Array, size: tuple[int, int],
               smallest: float) -> Region | None:
    """The first of T tries that is allowed, None where none is.

    shares (T, 4) in [0, 1): of the way from the smallest width to the canvas's, of the heights likewise, then of the
    way from the left end to the right one and from top to bottom. A crop has whole pixels, an aspect of 1/2 to 2, the
    centre of an object strictly inside it, and with one object an overlap (IoU) of `bound` or more.
    """
    left, top, right, bottom = canvas
    sides = np.array((right - left, bottom - top))
    wanted = sides * (smallest + (1 - smallest) * shares[:, :2])  # (T, 2) width, height
    corner = shares[:, 2:] * (sides - wanted)
    crops = np.concatenate((np.floor(corner), np.floor(corner + wanted)), 1) + (left, top) * 2  # (T, 4)
    aspect = wanted[:, 1] / wanted[:, 0]
    allowed = (aspect >= ASPECTS[0]) & (aspect <= ASPECTS[1]) & (crops[:, :2] < crops[:, 2:]).all(1)
    if len(boxes):
        allowed &= centres_inside(crops, boxes).any(1)
        if bound:
            allowed[allowed] = overlaps(crops[allowed], boxes).max(1) >= bound
    else:
        allowed &= (crops[:, :2] < size[::-1]).all(1) & (crops[:, 2:] > 0).all(1)
    tries = np.flatnonzero(allowed)
    return tuple(crops[tries[0]].astype(int).tolist()) if len(tries) else None


def overlaps(crops: Array, boxes: Array) -> Array:
    """(T, N) intersection over union of crops (T, 4) with boxes (N, 4)."""
    sides = np.minimum(crops[:, None, 2:], boxes[:, 2:]) - np.maximum(crops[:, None, :2], boxes[:, :2])
    common = np.maximum(sides, 0).prod(2)
    return common / (box_areas(crops)[:, None] + box_areas(boxes) - common)
