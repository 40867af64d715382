"""Training augmentation, first step: random numbers decide a `Plan`; `data.augment.render` draws it.

A plan contains every random decision, so the pixels can be drawn anywhere, on this CPU or in batches on a GPU. What is
decided, and how, is up to a policy (`data.augment.policies`), which sees the sample's `Scene`.

Legend: S side of the frame; spaces image, canvas and frame as in data.augment.geometry.
"""

from collections.abc import Callable
from dataclasses import dataclass

from data.augment.geometry import Labels, MosaicLayer, PlaceRule, Size
from data.augment.photometric import Photometric
from data.images.letterbox import plan_letterbox
from utils.structures import Letterbox


@dataclass(frozen=True)
class Scene:
    """What a policy may know of the sample that it plans.

    index: the image that the sample is about; size: of the frame; size_of(i): (height, width) of image i; others(k):
    k images to go with `index`; labels_of(i): the labels of image i, None where a policy asks for none; mosaic: False
    where images are shown alone, as at the end of training; place(original, size): how an image that is alone lies in a
    frame before it is moved, as the model's frame says (`data.images.placement.Placement.on_canvas`); sides: the two
    numbers that the frame is sized by (`utils.frame.Frame.resolve`).
    """

    index: int
    size: Size
    size_of: Callable[[int], tuple[int, int]]
    others: Callable[[int], list[int]]
    labels_of: Callable[[int], Labels] | None = None
    mosaic: bool = True
    place: PlaceRule = plan_letterbox
    sides: tuple[int, int] = (640, 640)


@dataclass(frozen=True)
class Paste:
    """Copy-paste of a sample: each object is a candidate with probability `share`, drawn from the number `seed`."""

    share: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """Every random decision about one sample: one layer, or two blended, `blend` being the weight of the first.

    colour: gains of hue, saturation and value for the whole frame, fill and all, or a photometric distortion of what is
    drawn of the one image. content: (height, width) at the frame's top left that the image covers, None: the whole.
    paste: how `data.augment.copy_paste` draws the objects that are pasted; small: how `data.augment.copy_small` chooses
    the small ones that it copies; None where none is.
    """

    layers: tuple[MosaicLayer, ...]
    blend: float
    colour: tuple[float, float, float] | Photometric
    paste: Paste | None = None
    content: tuple[int, int] | None = None
    small: Paste | None = None

    def letterbox(self, frame: tuple[int, int]) -> Letterbox:
        """An augmented sample is an image of its own, placed as it is."""
        return Letterbox(self.content or frame, frame, (1.0, 1.0), (0, 0))
