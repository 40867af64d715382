"""Text of every script on images: which font file has its letters, and a transliteration if none has.

OpenCV 5 draws Latin, Greek, Cyrillic, Chinese, Japanese and Korean itself. For other letters, and with OpenCV 4, a font
file is searched: matplotlib's own first, then those of the system.
"""

import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
UNICODE = hasattr(cv2, "FontFace")  # OpenCV 5: the Hershey names stand for real fonts
PIXELS = 30  # font size of a font file that matches OpenCV's scale of 1
UNFIT = ("Emoji", "Last Resort")  # coloured bitmaps; boxes that name a script
PREFERRED = ("CJK", "Noto Sans", "Noto", "Han", "Sans")  # of several system fonts that have the letters


@cache
def opencv_draws(letter: str) -> bool:
    """Whether OpenCV's own font has a letter; it draws a question mark for others."""
    if letter.isascii() or not UNICODE:
        return letter.isascii()
    pictures = np.zeros((2, 48, 96), np.uint8)
    for picture, text in zip(pictures, (letter, "?"), strict=True):
        cv2.putText(picture, text, (24, 36), FONT, 1.0, 255, 1)
    return not np.array_equal(*pictures)


@cache
def font_file(letters: str) -> str | None:
    """A font file that has all of these letters; None if this machine has none."""
    from matplotlib.font_manager import findfont, fontManager, get_font  # takes half a second

    def has_all(path: str) -> bool:
        try:
            font = get_font(path)
            return font.scalable and all(font.get_char_index(ord(c)) for c in letters if not c.isspace())
        except (OSError, RuntimeError, ValueError):  # a font that FreeType cannot read
            return False

    def rank(font) -> tuple[int, str]:
        return next((k for k, word in enumerate(PREFERRED) if word in font.name), len(PREFERRED)), font.fname

    own = str(findfont("DejaVu Sans"))
    fit = (f for f in fontManager.ttflist if f.style == "normal" and not any(word in f.name for word in UNFIT))
    fonts = sorted(fit, key=rank)
    return next((path for path in (own, *(f.fname for f in fonts)) if has_all(path)), None)


def odd_letters(text: str) -> str:
    """The non-ASCII letters of a text, unique and sorted."""
    return "".join(sorted({c for c in text if not c.isascii() and c.isprintable()}))


def spelled(text: str, known: Callable[[str], bool]) -> str:
    """`text` with each letter that is not `known` replaced by its Unicode name, or its number if it is an ideograph."""
    return "".join(c if known(c) else _latin(c) for c in text) or "?"


def _latin(letter: str) -> str:
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    name = unicodedata.name(letter, "")
    if plain or unicodedata.category(letter)[0] == "M":
        return plain
    if not name or "IDEOGRAPH" in name:
        return f"u{ord(letter):x}"
    for word in ("LETTER ", "SYLLABLE ", "CHARACTER "):
        if word in name:
            return name.partition(word)[2].split()[-1].lower()
    return name.lower()


@lru_cache(4096)
def drawable(text: str) -> tuple[str, str | None]:
    """(what to draw, font file): None for OpenCV's own font."""
    if all(opencv_draws(c) for c in set(text)):
        return text, None
    font = font_file(odd_letters(text))
    return (text, font) if font else (spelled(text, opencv_draws), None)


def text_size(text: str, scale: float, weight: int) -> tuple[tuple[int, int], int]:
    """((width, height above the base line), depth below it) in pixels, as `cv2.getTextSize`."""
    text, file = drawable(text)
    if file is None:
        return cv2.getTextSize(text, FONT, scale, weight)
    left, top, right, bottom = _font(file, scale).getbbox(text, anchor="ls")
    return (max(right - min(left, 0), 1), max(-top, 1)), max(bottom, 1)


def put_text(picture: np.ndarray, text: str, origin: tuple[int, int], scale: float, ink: tuple[int, int, int],
             weight: int) -> None:
    """Write into a BGR picture, from `origin` (x, y) on the base line, as `cv2.putText`."""
    text, file = drawable(text)
    if file is None:
        cv2.putText(picture, text, origin, FONT, scale, ink, weight, cv2.LINE_AA)
        return
    from PIL import Image, ImageDraw

    (width, above), below = text_size(text, scale, weight)
    mask = Image.new("L", (width, above + below))
    ImageDraw.Draw(mask).text((0, above), text, 255, _font(file, scale), anchor="ls")
    x, y = origin[0], origin[1] - above
    x1, y1 = max(x, 0), max(y, 0)
    part = picture[y1:max(y + above + below, 0), x1:max(x + width, 0)]
    share = np.asarray(mask, np.float32)[y1 - y:y1 - y + part.shape[0], x1 - x:x1 - x + part.shape[1], None] / 255
    part[:] = np.rint(part * (1 - share) + np.array(ink, np.float32) * share)


@cache
def _font(file: str, scale: float):
    from PIL import ImageFont

    return ImageFont.truetype(file, max(round(PIXELS * scale), 6))
