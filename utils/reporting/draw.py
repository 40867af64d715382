"""Drawing boxes on images. Images are (H, W, 3) uint8 BGR, boxes xyxy pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from utils.errors import printable
from utils.reporting.fonts import put_text, text_size
from utils.structures import Detections

# Of image files that OpenCV writes; those that it reads are `data.formats.paths.IMAGE_SUFFIXES`.
WRITABLE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
_PALETTE = ("ff3b30", "007aff", "34c759", "ffb000", "af52de", "00c7be", "ff2d92", "8e6e53", "5856d6", "b5e61d",
            "ff7f50", "32ade6", "006d3c", "ffd60a", "7a0045", "9aa5b1", "d4a5ff", "00ff85", "a2480f", "003f8a")


def color(index: int) -> tuple[int, int, int]:
    """The BGR colour of class `index`: 20 colours, then again from the first."""
    red, green, blue = bytes.fromhex(_PALETTE[int(index) % len(_PALETTE)])
    return blue, green, red


@dataclass(frozen=True)
class Style:
    """How detections are drawn. line: pixels of the lines of boxes; labels, scores: whether captions name the class,
    and whether they hold the score."""

    line: int = 3
    labels: bool = True
    scores: bool = True

    def caption(self, name: str, score: float, number: int | None = None) -> str:
        """The caption of a detection; number: of the object that a tracker follows."""
        parts = [f"#{number}"] * (number is not None) + [name] * self.labels
        return " ".join(parts + [f"{score:.2f}"] * (self.labels and self.scores))


def draw_detections(image: np.ndarray, detections: Detections, names: Sequence[str], style: Style = Style(),
                    ids: Tensor | None = None) -> np.ndarray:
    """A copy of `image` with its detections, in pixels of `image`, the highest score on top. ids: (N,) of a tracker."""
    labels = detections.labels.tolist()
    numbers = [None] * len(labels) if ids is None else ids.tolist()
    captions = [style.caption(class_name(names, label), score, number)
                for label, score, number in zip(labels, detections.scores.tolist(), numbers, strict=True)]
    picture = np.ascontiguousarray(image).copy()
    rows = list(zip(detections.boxes.tolist(), labels, captions, strict=True))
    for box, label, caption in reversed(rows):
        draw_box(picture, box, color(label), caption, style.line)
    return picture


def draw_box(picture: np.ndarray, box: Sequence[float], colour: tuple[int, int, int], caption: str = "",
             thickness: int = 3) -> None:
    """Draw one box into `picture`, with a caption on a filled background that stays inside the image."""
    height, width = picture.shape[:2]
    x1, x2 = (round(min(max(v, -10.0), width + 10.0)) for v in box[::2])  # OpenCV's integers overflow far outside
    y1, y2 = (round(min(max(v, -10.0), height + 10.0)) for v in box[1::2])
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, thickness)
    if not caption:
        return
    weight, scale = max(thickness - 1, 1), max(thickness / 4, 0.35)
    (text_width, text_height), below = text_size(caption, scale, weight)
    text_width, full = text_width + 2, text_height + below + 2
    left = max(min(x1, width - text_width), 0)
    top = y1 - full if y1 >= full else min(max(y1, 0), max(height - full, 0))
    cv2.rectangle(picture, (left, top), (left + text_width, top + full), colour, -1)
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)
    put_text(picture, caption, (left + 1, top + text_height + 1), scale, ink, weight)


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class for a caption: on one line, control characters written out."""
    name = " ".join(str(names[label]).split()) if label < len(names) else ""
    return printable(name) or f"class {label}"


def draw_weights(image: np.ndarray, weights: np.ndarray, point: tuple[float, float], share: float = 0.6) -> np.ndarray:
    """A copy of `image` under a heat map of `weights` (h, w), blue for none and red for the greatest, with a cross at
    `point` (x, y).

    share: of the heat map in each pixel. Each weight covers the cells that it stands for, interpolated between them.
    """
    height, width = image.shape[:2]
    heat = weights.astype(np.float32) / max(float(weights.max()), 1e-12)
    heat = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((heat.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLORMAP_JET)
    picture = cv2.addWeighted(np.ascontiguousarray(image), 1 - share, colours, share, 0)
    centre, size = (round(point[0]), round(point[1])), max(8, min(height, width) // 16)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawMarker(picture, centre, colour, cv2.MARKER_CROSS, size, thickness)
    return picture
