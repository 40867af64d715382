"""The policy of DETR and its kin: mirroring, a random shorter side, and for half of the images a random crop before it.

Carion et al. 2020 (DETR), section 4; the crop's sides as in Salience DETR's code. The size that an image gets is drawn
first, so that the frame of a batch is known before anything else of its samples is (`draw_window`).

Legend: sizes are (height, width).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data.augment.geometry import BoxFilter, MosaicLayer, Tile, scaling
from data.augment.plan import Plan, Scene
from data.augment.policies.policy import Policy
from utils.config import is_number, is_whole
from utils.errors import UserError, shown

Pair = tuple[int, int]
SHORT = 800  # the shorter side of a model that the words below are meant for; they scale with that of another
PLAIN = (1.0, 1.0, 1.0)  # no change of colour


@dataclass(frozen=True)
class Window:
    """What a sample shows: the region x1, y1, x2, y2 of its image, in pixels of the original, at `size`."""

    region: tuple[float, float, float, float]
    size: Pair


@dataclass(frozen=True)
class DetrPolicy(Policy):
    """How images are resized and cropped; sides in pixels for a shorter side of 800, scaled with it."""

    shortest: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # shorter side, any of these
    crop: float = 0.5  # probability of a crop before that
    before_crop: tuple[int, ...] = (400, 500, 600)  # shorter side, any of these, that is cropped from
    least_crop: int = 384  # sides of a crop
    most_crop: int = 600
    fliplr: float = 0.5  # probability of mirroring
    min_side: float = 1.0  # of a box that stays, px
    fill: tuple[int, int, int] = (124, 116, 104)  # RGB beside an image: the mean colour

    fit: ClassVar[str] = "shortest"

    def __post_init__(self) -> None:
        for name in ("shortest", "before_crop", "fill"):  # lists, as YAML gives them
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        wrong = [f"{name} {shown(getattr(self, name))} is not between 0 and 1" for name in ("crop", "fliplr")
                 if not is_number(getattr(self, name), 0, 1)]
        wrong += [f"{name} {shown(getattr(self, name))} is not a list of pixels" for name in ("shortest", "before_crop")
                  if not (isinstance(getattr(self, name), tuple) and getattr(self, name)
                          and all(is_whole(side, 1, 65_536) for side in getattr(self, name)))]
        wrong += [f"{name} {shown(getattr(self, name))} is not a number of pixels"
                  for name in ("least_crop", "most_crop") if not is_whole(getattr(self, name), 1, 65_536)]
        if not wrong and self.least_crop > self.most_crop:
            wrong.append(f"least_crop {self.least_crop} is above most_crop {self.most_crop}")
        if not is_number(self.min_side, 0, 1e6):
            wrong.append(f"min_side {shown(self.min_side)} is not a number of pixels")
        if not (isinstance(self.fill, tuple) and len(self.fill) == 3 and all(is_whole(v, 0, 255) for v in self.fill)):
            wrong.append(f"fill {shown(self.fill)} is not [red, green, blue], whole numbers from 0 to 255")
        if wrong:
            raise UserError("augmentation settings: " + "; ".join(wrong), "bad-value")

    def draw(self, rng: np.random.Generator, scene: Scene) -> Plan:
        """Decide everything about one sample: its window first, as `draw_window` does alone."""
        window = self.draw_window(rng, scene.size_of(scene.index), scene.sides)
        return Plan((window_layer(scene.index, scene.size_of(scene.index), window, rng.random() < self.fliplr),), 1.0,
                    PLAIN, content=window.size)

    draws_sizes = True

    def draw_size(self, rng: np.random.Generator, size: Pair, sides: Pair) -> Pair:
        return self.draw_window(rng, size, sides).size

    def draw_window(self, rng: np.random.Generator, size: Pair, sides: Pair) -> Window:
        """What is shown of an image of `size`; sides: the model's shorter and longer side (`Frame.resolve`).

        Every number is drawn whether it is used or not."""
        factor, long = sides[0] / SHORT, sides[1]
        cropped = rng.random() < self.crop
        first, short = (sides_[int(rng.integers(len(sides_)))] * factor for sides_ in (self.before_crop, self.shortest))
        shares = rng.random(4)
        if not cropped:
            return Window((0.0, 0.0, float(size[1]), float(size[0])), fitted(size, short, long))
        whole = fitted(size, first, np.inf)
        least, most = (max(round(side * factor), 1) for side in (self.least_crop, self.most_crop))
        spans = [crop_span(side, share, at, (least, most)) for side, share, at in zip(whole, shares[:2], shares[2:],
                                                                                      strict=True)]
        (top, bottom), (left, right) = spans
        y, x = size[0] / whole[0], size[1] / whole[1]
        return Window((left * x, top * y, right * x, bottom * y), fitted((bottom - top, right - left), short, long))

    def in_rectangles(self) -> "DetrPolicy":
        return self

    @property
    def box_filter(self) -> BoxFilter:
        return BoxFilter(self.min_side, 0.0, 1e12)

    @property
    def detail(self) -> float:
        """A crop is enlarged by the largest shorter side over its own least one, from an image of `before_crop`."""
        return max(self.shortest) / min(self.least_crop, *self.before_crop) if self.crop else 1.0

    @property
    def smallest_zoom(self) -> float:
        return min(self.shortest) / SHORT / self.detail


def fitted(size: Pair, short: float, long: float) -> Pair:
    """The size after resizing so that the shorter side is `short`, unless the longer one then exceeds `long`."""
    ratio = min(short / min(size), long / max(size))
    return max(int(size[0] * ratio), 1), max(int(size[1] * ratio), 1)


def crop_span(side: int, share: float, at: float, limits: Pair) -> Pair:
    """First and last pixel, exclusive, of a crop along an axis of `side` pixels: its length uniform within `limits` as
    far as the side allows, its place uniform; share, at: uniform in [0, 1)."""
    least, most = min(limits[0], side), min(limits[1], side)
    length = least + int(share * (most - least + 1))
    start = int(at * (side - length + 1))
    return start, start + length


def window_layer(index: int, size: Pair, window: Window, mirrored: bool) -> MosaicLayer:
    """Image `index` of `size`, of which the frame's top left shows the window."""
    (x1, y1, x2, y2), (height, width) = window.region, window.size
    scale = width / (x2 - x1), height / (y2 - y1)
    tile = Tile(index, scale, (-x1 * scale[0], -y1 * scale[1]), (0.0, 0.0, float(width), float(height)))
    matrix = scaling(-1, 1, width, 0) if mirrored else scaling(1, 1)
    return MosaicLayer((tile,), matrix, 1.0)
