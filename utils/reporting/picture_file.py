"""Writing a picture to a file."""

from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.files import write_bytes


def write_picture(path: Path, image: np.ndarray) -> Path:
    """Write an HWC BGR uint8 image in the format of the suffix, or as PNG if it is too large for that format; returns
    the file.

    Sides of a JPEG have at most 65,500 pixels, of a WebP 16,383.
    """
    for suffix in (path.suffix, ".png"):
        try:
            done, encoded = cv2.imencode(suffix, image)
        except cv2.error:  # raised for some formats, for others `done` is False
            continue
        if done:
            write_bytes(path.with_suffix(suffix), encoded.tobytes())
            return path.with_suffix(suffix)
    raise UserError(f"{path}: OpenCV could not encode a picture of shape {image.shape} as {path.suffix}",
                    "unwritable-file")
