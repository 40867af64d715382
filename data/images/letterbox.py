"""Fitting an image of any size into the input frame, with a transform whose inverse is exact.

Legend: boxes are xyxy pixels, continuous (a box over a whole 640 x 480 image is 0, 0, 640, 480). A resize from w to w'
pixels multiplies x by w'/w: that quotient, after rounding of w', is the scale that boxes get, axis by axis.
"""

import cv2
import numpy as np
import torch

from utils.frame import GREY
from utils.structures import Letterbox

FILL = GREY
Place = tuple[tuple[int, int], Letterbox]  # the size of an image in its frame, and the transform
Colour = int | tuple[int, int, int]  # a grey, or red, green, blue


def fit_side(original: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) after resizing so that the longest side is `side` pixels; no side below 1."""
    ratio = side / max(original)
    return max(round(original[0] * ratio), 1), max(round(original[1] * ratio), 1)


def plan_letterbox(original: tuple[int, int], size: int | tuple[int, int], *, auto: bool = False, stride: int = 32,
                   scaleup: bool = True, stretch: bool = False,
                   corner: bool = False) -> Place:
    """Where an image of `original` (height, width) goes in a frame of `size` (one number, or height and width).

    auto: pad each axis only to the next multiple of `stride`; scaleup: allow enlarging; stretch: fill the frame and let
    the aspect change (only without `auto`); corner: pad on the right and at the bottom alone. Returns the resized
    (height, width) and the transform.
    """
    frame = (size, size) if isinstance(size, int) else tuple(size)
    ratio = min(frame[0] / original[0], frame[1] / original[1])
    if not scaleup:
        ratio = min(ratio, 1.0)
    inner = tuple(max(round(side * ratio), 1) for side in original)
    spare = [outer - side for outer, side in zip(frame, inner, strict=True)]
    if auto:
        spare = [gap % stride for gap in spare]
    elif stretch:
        inner, spare = frame, [0, 0]
    return inner, set_in(original, inner, (inner[0] + spare[0], inner[1] + spare[1]), corner)


def plan_rect(original: tuple[int, int], side: int, frame: tuple[int, int],
              corner: bool = False) -> Place:
    """As `plan_letterbox`, but for an image loaded at longest side `side` and only then padded to the larger `frame`.

    This is rectangular evaluation: the frame has room to spare and the image is not enlarged to use it.
    """
    inner = fit_side(original, side)
    if inner[0] > frame[0] or inner[1] > frame[1]:
        return plan_letterbox(original, frame, corner=corner)
    return inner, set_in(original, inner, frame, corner)


def place(image: np.ndarray, inner: tuple[int, int], transform: Letterbox, *, fill: Colour = FILL,
          antialias: bool = False) -> np.ndarray:
    """`resize` an image (H, W, 3) uint8 BGR to `inner` and set it in the frame of `transform`, the rest `fill`."""
    image = resize(image, inner, antialias)
    (height, width), (left, top) = transform.input, transform.pad
    bgr = (fill,) * 3 if isinstance(fill, int) else fill[::-1]
    return cv2.copyMakeBorder(image, top, height - inner[0] - top, left, width - inner[1] - left,
                              cv2.BORDER_CONSTANT, value=bgr)


def paint(image: np.ndarray, colour: tuple[int, int, int]) -> None:
    """All of an image (H, W, 3) uint8 in one colour, in the order of its channels."""
    if len(set(colour)) == 1:  # a tenth of the time
        image.fill(colour[0])
    else:
        image[:] = colour


def resize(image: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    """`image` (H, W, 3) uint8 at `size` (height, width); itself where that is its own.

    antialias: average over the covered pixels when shrinking (INTER_AREA), as YOLOv5/v7 do at evaluation.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if antialias and shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=how)


def letterbox(image: np.ndarray, size: int | tuple[int, int], *, auto: bool = False, stride: int = 32,
              scaleup: bool = True, stretch: bool = False,
              antialias: bool = False) -> tuple[np.ndarray, Letterbox]:
    """Fit `image` (H, W, 3) uint8 into a frame of `size`; options as in `plan_letterbox`, `resize` and `place`.

    Returns the new image and the `Letterbox` that carries boxes there (`forward`) and back (`inverse`).
    """
    inner, transform = plan_letterbox(image.shape[:2], size, auto=auto, stride=stride, scaleup=scaleup, stretch=stretch)
    return place(image, inner, transform, antialias=antialias), transform


def forward_boxes(transform: Letterbox, boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float32 boxes of the original frame -> boxes of the input frame, as arrays."""
    return transform.forward(torch.from_numpy(np.ascontiguousarray(boxes, np.float32))).numpy()


def set_in(original: tuple[int, int], inner: tuple[int, int], frame: tuple[int, int],
           corner: bool = False) -> Letterbox:
    """The transform of an image of `original` (height, width), resized to `inner` and set in a `frame` not smaller."""
    # Half of the spare pixels on each side; an odd one goes to the right and the bottom, as in the originals.
    top, left = (0 if corner else round((outer - side) / 2 - 0.1) for outer, side in zip(frame, inner, strict=True))
    return Letterbox(tuple(original), tuple(frame), (inner[1] / original[1], inner[0] / original[0]), (left, top))
