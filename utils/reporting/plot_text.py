"""Texts of matplotlib figures with letters that its own font lacks.

A font file of the system is used if one has them; otherwise OpenCV, whose built-in font has Chinese and Korean too,
draws them over the finished figure.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.files import write_bytes
from utils.reporting.fonts import PIXELS, font_file, odd_letters, opencv_draws, put_text, spelled, text_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDE = "m"  # about as wide as a Chinese letter


def readable(name: str) -> str:
    """A name that `save_figure` can draw: transliterated to Latin letters if no font has its own."""
    letters = odd_letters(name)
    shows = font_file(letters) is not None or all(map(opencv_draws, letters))
    return name if shows else spelled(name, opencv_draws)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as an image file, with texts in any script."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text

    by_hand = []
    for text in figure.findobj(Text):
        letters = odd_letters(text.get_text())
        if not letters:
            continue
        file = font_file(letters)
        if file is not None:
            text.set_fontproperties(FontProperties(fname=file, size=text.get_fontsize()))
        else:
            by_hand.append((text, text.get_text()))
    if not by_hand:
        figure.savefig(path)
        return
    for text, content in by_hand:  # a placeholder of the same width
        scale = _scale(text, figure)
        share = text_size(content, scale, 1)[0][0] / (text_size(WIDE * 10, scale, 1)[0][0] / 10)
        text.set_text(WIDE * max(round(share), 1))
        text.set_alpha(0)
    figure.canvas.draw()
    picture = cv2.cvtColor(np.asarray(figure.canvas.buffer_rgba()), cv2.COLOR_RGBA2BGR)
    for text, content in by_hand:
        _draw(picture, text, content, figure)
    _, encoded = cv2.imencode(path.suffix, picture)
    write_bytes(path, encoded.tobytes())


def _scale(text: "Text", figure: "Figure") -> float:
    return text.get_fontsize() * figure.dpi / 72 / PIXELS


def _draw(picture: np.ndarray, text: "Text", content: str, figure: "Figure") -> None:
    """Draw a text at its position in the layout, upright or rotated by 90 degrees."""
    from matplotlib.colors import to_rgb

    if not text.get_visible():
        return
    box = text.get_window_extent()
    height, width = picture.shape[:2]
    x1, x2 = (int(np.clip(round(x), 0, width)) for x in (box.x0, box.x1))
    y1, y2 = (int(np.clip(round(height - y), 0, height)) for y in (box.y1, box.y0))
    if x2 <= x1 or y2 <= y1:
        return
    part = picture[max(y1 - 2, 0):y2 + 2, max(x1 - 2, 0):x2 + 2]  # letters reach a little below the line
    quarter = text.get_rotation() == 90
    patch = np.ascontiguousarray(np.rot90(part, -1) if quarter else part)
    ink = tuple(round(255 * value) for value in to_rgb(text.get_color())[::-1])
    (_, above), below = text_size(content, _scale(text, figure), 1)
    put_text(patch, content, (2, (patch.shape[0] + above - below) // 2 + 1), _scale(text, figure), ink, 1)
    part[:] = np.rot90(patch) if quarter else patch
