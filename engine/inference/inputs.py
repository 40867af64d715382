"""What `Model.predict` takes: files, and pictures that are in memory already, as one stream of frames.

Legend: B pictures, H, W pixels of one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from data.images.decode import check_pixels, picture_pixels, three_channels, turned
from engine.inference.config import DetectConfig
from engine.inference.sources import Frame, Source, open_source
from utils.errors import UserError, shown

KINDS = ("a path, a folder, a glob, a stream, an array (H, W, 3) as OpenCV gives it, a PIL image, a tensor (3, H, W) "
         "or (B, 3, H, W) in RGB, or a list or an iterator of these")


class Inputs:
    """The frames of several sources, in order. is_endless: whether there may be more than fit into memory."""

    def __init__(self, parts: Iterable[Source | Frame], is_endless: bool) -> None:
        self.parts, self.is_endless, self.sources = parts, is_endless, []

    def __iter__(self) -> Iterator[Frame]:
        for part in self.parts:
            if isinstance(part, Frame):
                yield part
            else:
                self.sources.append(part)
                yield from part

    @property
    def remarks(self) -> list[str]:
        """What could not be read, wholly or in part, and what else is worth knowing."""
        return [f"{what}{line}" for source in self.sources for what, lines in (
            ("skipped ", source.skipped), ("incomplete: ", source.incomplete), ("", source.notes)) for line in lines]


def open_inputs(source: Any, rgb: bool, config: DetectConfig) -> Inputs:
    """`KINDS` as frames. Pictures in memory are named image0, image1, ... by their place.

    rgb: arrays are in RGB and not, as OpenCV has them, in BGR. Raises `UserError` for anything else than `KINDS`, for
    files that are not there, and for `rgb` where there is no array; of an iterator, when it comes to it.
    """
    if isinstance(source, Iterator):
        return Inputs((_part(item, k, rgb, config) for k, item in enumerate(source)), is_endless=True)
    items = _items(source)
    if rgb and not any(isinstance(item, np.ndarray) for item in items):
        raise UserError("rgb=True: says how arrays are to be read, and there is none; PIL images and tensors are RGB "
                        "anyway, drop it", "flag-without-effect")
    parts = [_part(item, k, rgb, config) for k, item in enumerate(items)]
    return Inputs(parts, any(isinstance(part, Source) and part.is_endless for part in parts))


def _part(item: Any, place: int, rgb: bool, config: DetectConfig) -> Source | Frame:
    if isinstance(item, str | Path | int) and not isinstance(item, bool):  # a number is a camera
        return open_source(str(item), vid_stride=config.vid_stride, max_pixels=config.max_pixels,
                           patience=config.patience)
    name = f"image{place}"
    image = _pixels(item, name, rgb)
    check_size(image, name, config.max_pixels)
    return Frame(getattr(item, "filename", "") or name, 0, image, "image")


def check_size(image: np.ndarray, name: str, max_pixels: int) -> None:
    """Raises `UserError` for a picture without pixels, and for one of more than are allowed."""
    if not image.size:
        raise UserError(f"{name}: shape {image.shape}, which holds no pixels", "bad-value")
    try:
        check_pixels(*image.shape[:2], max_pixels)
    except ValueError as error:
        raise UserError(f"{name}: {error}", "too-large") from None


def _items(source: Any) -> list[Any]:
    """The pictures of a list or a batch, or the one that was given."""
    batch = isinstance(source, np.ndarray | Tensor) and source.ndim == 4
    items = list(source) if batch or isinstance(source, list | tuple) else [source]
    if not items:
        raise UserError(f"predict: the list of sources is empty; give {KINDS}", "missing-argument")
    return items


def _pixels(item: Any, name: str, rgb: bool) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a picture in memory."""
    if isinstance(item, Tensor):
        return _of_tensor(item, name)
    if isinstance(item, np.ndarray):
        return _of_array(item, name, rgb)
    if isinstance(item, Image.Image):
        return turned(*picture_pixels(item))
    what = "None, as cv2.imread gives for a file that it cannot read" if item is None else (
        f"{type(item).__name__} {shown(item, 60)}")
    raise UserError(f"predict: {name} is {what}; give {KINDS}", "bad-source")


def _of_array(array: np.ndarray, name: str, rgb: bool) -> np.ndarray:
    """An array (H, W), or (H, W, C) with 1, 3 or 4 channels, of which a fourth, alpha, is left out."""
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        hint = "; a tensor may be (3, H, W), an array not" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise UserError(f"predict: {name} is an array of shape {array.shape}; give (H, W, 3), grey (H, W) or with "
                        f"alpha (H, W, 4){hint}", "bad-shape")
    image = three_channels(_as_bytes(array, name))
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if rgb else np.ascontiguousarray(image)


def _of_tensor(tensor: Tensor, name: str) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise UserError(f"predict: {name} is a tensor of shape {tuple(tensor.shape)}; give (3, H, W) or (B, 3, H, W) "
                        "in RGB", "bad-shape")
    tensor = tensor.detach().cpu().permute(1, 2, 0)
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return np.ascontiguousarray(_as_bytes(tensor.numpy(), name)[..., ::-1])


def _as_bytes(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is, floats in [0, 1] rounded to 255 steps, which is what a file would hold."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f" and (not values.size or (values.min() >= 0 and values.max() <= 1)):
        return np.rint(values * 255).astype(np.uint8)
    span = f" from {values.min():g} to {values.max():g}" if values.size else ""
    raise UserError(f"predict: {name} holds {values.dtype}{span}; give uint8, or floats from 0 to 1", "bad-type")
