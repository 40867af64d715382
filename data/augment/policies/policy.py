"""What every augmentation policy offers to the loader, the renderers and the recipe."""

from typing import ClassVar

import numpy as np

from data.augment.geometry import BoxFilter
from data.augment.plan import Plan, Scene


class Policy:
    """A way to augment: a frozen dataclass whose fields are the words of its recipes.

    It checks its words when it is made and raises one `UserError` for all that is wrong with them.
    """

    fill: int | tuple[int, int, int]  # grey, or RGB
    pads: ClassVar[bool] = False  # whether `fill`, where a recipe names none, should be that of the model's frames
    fit: ClassVar[str] = "letterbox"  # `utils.frame.Frame.fit` of the models that it was made for

    draws_sizes = False  # whether the size of an image in its frame is left to chance (`draw_size`)

    def draw_size(self, rng: np.random.Generator, size: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of `size` gets in a frame, from a generator that has given nothing yet.

        sides: see `Scene`. What `draw` decides from an equal generator has this size.
        """
        raise NotImplementedError

    def draw(self, rng: np.random.Generator, scene: Scene) -> Plan:
        """Every random decision about one sample; equal generators and scenes give equal plans."""
        raise NotImplementedError

    def in_rectangles(self) -> "Policy":
        """This policy in the frames of `--rect`, which fit the images of a batch. `UserError` where it has none."""
        raise NotImplementedError

    @property
    def box_filter(self) -> BoxFilter:
        """Which boxes stay after the geometry."""
        raise NotImplementedError

    @property
    def fill_bgr(self) -> tuple[int, int, int]:
        """The colour beside images, in OpenCV's order."""
        return tuple(self.fill[::-1]) if isinstance(self.fill, tuple) else (self.fill,) * 3

    @property
    def detail(self) -> float:
        """The longest side at which images are held, in sides of the frame: how much a crop may enlarge them."""
        return 1.0

    @property
    def enlarge(self) -> float:
        """Up to how many times smaller images are enlarged to that side, once for all samples that show them."""
        return 1.0

    @property
    def shows_others(self) -> bool:
        """Whether samples show other images than their own, which are then worth keeping at hand."""
        return False

    @property
    def needs_polygons(self) -> bool:
        """Whether outlines of objects are used where the labels have them."""
        return False

    @property
    def smallest_zoom(self) -> float:
        """The strongest reduction of an image that the loader holds, in pixels of the frame per pixel."""
        return 1.0
