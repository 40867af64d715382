"""What every augmentation policy offers to the loader, the renderers and the recipe."""

import numpy as np

from data.augment.geometry import BoxFilter
from data.augment.plan import Plan, Scene


class Policy:
    """A way to augment: a frozen dataclass whose fields are the words of its recipes.

    It checks its words when it is made and raises one `UserError` for all that is wrong with them.
    """

    fill: int

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
