"""Pictures side by side, each with its title above it, and what their colours mean below all.

Pictures are (H, W, 3) uint8 BGR.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.errors import printable
from utils.files import write_bytes
from utils.reporting.draw import draw_marks
from utils.reporting.fonts import put_text
from utils.reporting.layout import Marks, Text, class_name
from utils.reporting.palette import CROWD, Colour, class_colours
from utils.structures import PackedTargets, Targets

LONGEST = 640  # pixels of a picture in a mosaic
GAP, BACKGROUND, INK = 2, 32, (235, 235, 235)
IGNORED = -1  # the kind of ignore regions


def plot_batch(images: Tensor, targets: Sequence[Targets] | PackedTargets, path: Path | str, names: Sequence[str],
               titles: Sequence[str] = (), limit: int = 16) -> None:
    """A mosaic of the first `limit` images (B, 3, H, W) RGB, uint8 or float in [0, 1], with their targets. titles: of
    the images, such as the names of their files."""
    rows = targets.unpack() if isinstance(targets, PackedTargets) else targets
    cells = []
    for k, (image, target) in enumerate(zip(images[:limit], rows, strict=False)):
        picture, scale = shrunk(to_picture(image))
        draw_marks(picture, truth_marks(target, names, scale))
        cells.append(titled(picture, titles[k]) if titles else picture)
    save_mosaic(cells, math.ceil(math.sqrt(len(cells))), path)


def to_picture(image: Tensor) -> np.ndarray:
    """(3, H, W) RGB, uint8 or float in [0, 1] -> a picture."""
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.float() * 255).round().clamp(0, 255).byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., ::-1])


def shrunk(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture at no more than `LONGEST` pixels, and its scale."""
    scale = min(1.0, LONGEST / max(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return picture, scale


def truth_marks(targets: Targets, names: Sequence[str], scale: float = 1.0) -> Marks:
    """The objects of an image in the colours of their classes, and its ignore regions in grey; boxes times `scale`."""
    ignored = targets.ignore.tolist()
    kinds = [IGNORED if skip else label for label, skip in zip(targets.labels.tolist(), ignored, strict=True)]
    meaning = {label: (colour, class_name(names, label))
               for label, colour in class_colours(k for k in kinds if k != IGNORED).items()}
    meaning[IGNORED] = CROWD, "ignored"
    boxes = targets.boxes.detach().cpu().double().numpy() * scale
    return Marks(boxes, kinds, meaning, [[meaning[kind][1] for kind in kinds]])


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture below a strip with its title, cut in the middle where it is too long."""
    width = picture.shape[1]
    return np.concatenate((strip(title, width, Text.of((width, width))), picture))


def strip(words: str, width: int, text: Text, ground: int = BACKGROUND) -> np.ndarray:
    """(text.height, width, 3): words in one line."""
    line = np.full((text.height, width, 3), ground, np.uint8)
    put_text(line, elided(words, text, width), (text.pad, text.height - text.pad - text.below), text.scale, INK,
             text.weight)
    return line


def elided(words: str, text: Text, width: int) -> str:
    """Words that are at most `width` pixels wide: of longer ones the beginning, two dots and the end."""
    words = printable(words)
    for kept in range(len(words), -1, -1):
        shown = words if kept == len(words) else f"{words[:kept // 2]}..{words[len(words) - (kept + 1) // 2:]}"
        if text.size(shown)[0] <= width:
            return shown
    return ""


def save_mosaic(cells: Sequence[np.ndarray], across: int, path: Path | str,
                legend: Sequence[tuple[Colour, str]] = ()) -> None:
    """Write pictures side by side, row by row, with thin lines between; narrow ones stand in the middle of their cells.
    legend: colours and what they mean."""
    if not cells:
        return
    rows = [cells[k:k + across] for k in range(0, len(cells), across)]
    width, heights = max(cell.shape[1] for cell in cells), [max(cell.shape[0] for cell in row) for row in rows]
    canvas = np.full((sum(heights) + GAP * (len(rows) - 1), across * (width + GAP) - GAP, 3), 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for k, cell in enumerate(row):
            left = k * (width + GAP)
            canvas[top:top + height, left:left + width] = BACKGROUND
            left += (width - cell.shape[1]) // 2
            canvas[top:top + cell.shape[0], left:left + cell.shape[1]] = cell
        top += height + GAP
    if legend:
        canvas = np.concatenate((canvas, legend_strip(legend, canvas.shape[1])))
    _, encoded = cv2.imencode(Path(path).suffix, canvas)
    write_bytes(path, encoded.tobytes())


def legend_strip(legend: Sequence[tuple[Colour, str]], width: int) -> np.ndarray:
    """(h, width, 3): colours with their meanings, in as many lines as they need."""
    text = Text.of((640, 640))
    lines, x = [[]], text.pad
    for colour, words in legend:
        step = text.height + text.size(words)[0]
        if x + step > width and lines[-1]:
            lines, x = [*lines, []], text.pad
        lines[-1].append((x, colour, words))
        x += step + text.height // 2
    canvas = np.full((len(lines) * text.height + 2 * text.pad, width, 3), BACKGROUND, np.uint8)
    for k, line in enumerate(lines):
        top = text.pad + k * text.height
        for x, colour, words in line:
            corner = x + text.height - 2 * text.pad, top + text.height - text.pad
            cv2.rectangle(canvas, (x, top + text.pad), corner, colour, -1)
            put_text(canvas, words, (x + text.height, top + text.height - text.pad - text.below), text.scale, INK,
                     text.weight)
    return canvas


def square(image: np.ndarray, low: Sequence[int], side: int, pixels: int) -> np.ndarray:
    """(pixels, pixels, 3): the part of an image from column and row `low` on, `side` pixels wide and high, grey where
    it lies beyond the image."""
    x, y = low
    canvas = np.full((side, side, 3), 235, np.uint8)
    x1, y1, x2, y2 = np.clip([x, y, x + side, y + side], 0, np.tile(image.shape[1::-1], 2)).tolist()
    canvas[y1 - y:y2 - y, x1 - x:x2 - x] = image[y1:y2, x1:x2]
    return cv2.resize(canvas, (pixels, pixels), interpolation=cv2.INTER_AREA if pixels < side else cv2.INTER_CUBIC)


def surroundings(box: Sequence[float], times: float = 4, least: int = 48) -> tuple[tuple[int, int], int]:
    """Column and row of the upper left corner, and the side, of a square around a box (left, top, width, height), so
    many times its longer side and at least `least` pixels."""
    left, top, width, height = box
    side = max(times * max(width, height), least)
    return (math.floor(left + width / 2 - side / 2), math.floor(top + height / 2 - side / 2)), math.ceil(side)
