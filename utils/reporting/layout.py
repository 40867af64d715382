"""What a picture with boxes consists of, before anything is drawn: lines, captions and a legend.

Captions and lines are sized by the picture and by the boxes in it. A caption covers no small object, no other caption
and little of other boxes; where there are many small objects, or no room, a legend says what the colours mean.

Legend: N boxes, xyxy pixels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from utils.errors import printable
from utils.reporting.captions import place_captions, place_legend
from utils.reporting.fonts import text_size
from utils.reporting.palette import Colour

LEAST_SCALE = 0.35  # of text, in OpenCV's scale: letters of 9 pixels
SMALL_TEXTS = 3.0  # heights of a caption: a shorter object is small
MOST_SMALL, SMALL_SHARE = 12, 0.02  # captions of small objects, unless they cover no more than this part of the picture
MOST_CAPTIONS = 120
CLUTTER = 0.15  # of the picture, the most that captions may cover
LEGEND_ROWS, LEGEND_SHARE = 12, 0.25  # a legend larger than this part of the picture is left out


@dataclass(frozen=True)
class Style:
    """How detections are drawn. line: pixels of the boxes' lines, None: by picture and box; labels, scores: whether
    captions name the class, and whether they hold the score."""

    line: int | None = None
    labels: bool = True
    scores: bool = True


AUTOMATIC = Style()


@dataclass(frozen=True)
class Marks:
    """What is drawn on a picture, what matters most first: boxes (N, 4) float64; kinds (N,): what each one is, such as
    its label; meaning: colour and name of each kind; forms: captions (N,) from the longest form to the shortest, none
    for boxes alone; numbers: captions (N,) of those that have no room for more, '' for none; legend: whether colours
    are explained where captions do not."""

    boxes: np.ndarray
    kinds: list[int]
    meaning: Mapping[int, tuple[Colour, str]]
    forms: list[list[str]] = field(default_factory=list)
    numbers: list[str] | None = None
    legend: bool = True


@dataclass(frozen=True)
class Text:
    """How large text is: OpenCV's scale, weight of the letters, pixels around them, and pixels above and below the
    base line, the same for all words, so that captions are of one height."""

    scale: float
    weight: int
    pad: int
    above: int
    below: int

    @classmethod
    def of(cls, shape: tuple[int, int], boxes: np.ndarray | None = None, line: int | None = None) -> "Text":
        """For a picture of (height, width): smaller where its boxes (N, 4) are, larger beside thick lines that were
        asked for."""
        side = max(shape)
        scale = max(0.42 * (side / 640) ** 0.7, LEAST_SCALE)
        if boxes is not None and len(boxes):
            least = LEAST_SCALE * max(side / 1000, 1) ** 0.5
            scale = min(scale, max(float(np.median(_sides(boxes))) / 60, least))
        return cls.at(scale if line is None else max(scale, line / 6))

    @classmethod
    def at(cls, scale: float) -> "Text":
        """Of one of OpenCV's scales."""
        weight = 2 if scale > 0.7 else 1
        (_, above), below = text_size("Ag", scale, weight)
        return cls(scale, weight, max(round(scale * 5), 1), above, below)

    def size(self, words: str) -> tuple[int, int]:
        """(width, height) of a caption in pixels, its padding included."""
        return text_size(words, self.scale, self.weight)[0][0] + 2 * self.pad, self.height

    @property
    def height(self) -> int:
        """Of a caption, in pixels."""
        return self.above + self.below + 2 * self.pad


@dataclass(frozen=True)
class Caption:
    """words at the rectangle `at`, xyxy pixels; row: of its box."""

    row: int
    words: str
    at: tuple[int, int, int, int]


@dataclass(frozen=True)
class LegendBox:
    """rows: colour and words; text: of the words; at: left, top; size: width, height in pixels."""

    rows: list[tuple[Colour, str]]
    text: Text
    at: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Of a picture: text; lines (N,) pixels; small (N,) bool: objects that nothing may cover; captions; legend, where
    some kind, or most boxes, have no caption."""

    text: Text
    lines: list[int]
    small: np.ndarray
    captions: list[Caption] = field(default_factory=list)
    legend: LegendBox | None = None


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class for a caption: on one line, control characters written out."""
    name = " ".join(str(names[label]).split()) if label < len(names) else ""
    return printable(name) or f"class {label}"


def line_widths(boxes: np.ndarray, shape: tuple[int, int], line: int | None = None) -> list[int]:
    """Pixels of the line of each box (N, 4): by the picture, at most a ninth of the box's shorter side; or `line`."""
    if line is not None:
        return [line] * len(boxes)
    base = max(round(1.7 * (max(shape) / 640) ** 0.8), 1)
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
    return np.clip(shorter // 9, 1, base).astype(int).tolist()


def plan(marks: Marks, shape: tuple[int, int], line: int | None = None) -> Layout:
    """The layout of a picture of (height, width). line: as in `Style`."""
    boxes, forms = marks.boxes, marks.forms
    lines, text = line_widths(boxes, shape, line), Text.of(shape, boxes, line)
    small = _sides(boxes) < SMALL_TEXTS * text.height
    made = Layout(text, lines, small)
    if not len(boxes) or not (forms or marks.numbers):
        return made
    around, page = boxes + np.array(lines)[:, None] * (-1, -1, 1, 1), (text, shape)
    hides = forms and _too_many(np.flatnonzero(small), forms[0], page)
    rows = np.flatnonzero(~small) if hides else np.arange(len(boxes))
    if len(rows) <= MOST_CAPTIONS:
        made.captions.extend(_captions(around, small, rows, forms, page))
    unnamed = np.setdiff1d(np.arange(len(boxes)), [caption.row for caption in made.captions])
    numbered = [row for row in unnamed.tolist() if marks.numbers and marks.numbers[row]]
    if marks.numbers and len(numbered) <= MOST_CAPTIONS:
        made.captions.extend(_captions(around, small, np.array(numbered, int), [marks.numbers], page, made.captions))
    named = {marks.kinds[row] for row in np.setdiff1d(np.arange(len(boxes)), unnamed).tolist()}
    clear = named == set(marks.kinds) and 2 * len(unnamed) <= len(boxes)  # captions say what each colour means
    legend = _legend(marks, made, around, shape) if marks.legend and forms and not clear else None
    return replace(made, legend=legend)


def _too_many(small: np.ndarray, words: list[str], page: tuple[Text, tuple[int, int]]) -> bool:
    """Whether captions of the small objects, (n,) rows, would hide what is around them."""
    if len(small) <= MOST_SMALL or len(small) > MOST_CAPTIONS:
        return len(small) > MOST_SMALL
    (text, (height, width)) = page
    covered = sum(text.size(words[row])[0] for row in small.tolist()) * text.height
    return covered > SMALL_SHARE * height * width


def _sides(boxes: np.ndarray) -> np.ndarray:
    """(N,) square roots of the areas."""
    return np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))


def _captions(boxes: np.ndarray, small: np.ndarray, rows: np.ndarray, forms: list[list[str]],
              page: tuple[Text, tuple[int, int]], taken: Sequence[Caption] = ()) -> list[Caption]:
    """Captions of some boxes, each in the longest form that finds a spot, until they would clutter the picture."""
    (text, shape), made = page, []
    room = CLUTTER * shape[0] * shape[1]
    for words in forms:
        if not len(rows):
            break
        sizes = np.array([text.size(words[row]) for row in rows.tolist()])
        rows, sizes = (part[np.cumsum(sizes.prod(1)) <= room] for part in (rows, sizes))
        used = np.array([c.at for c in (*taken, *made)]).reshape(-1, 4)
        spots = place_captions(boxes, small, rows, sizes, shape, used)
        done = spots[:, 0] >= 0
        made += [Caption(row, words[row], tuple(spot)) for row, spot in zip(rows[done].tolist(), spots[done].tolist(),
                                                                            strict=True)]
        room -= sizes[done].prod(1).sum()
        rows = rows[~done]
    return made


def _legend(marks: Marks, made: Layout, boxes: np.ndarray, shape: tuple[int, int]) -> LegendBox | None:
    """Colour, name and number of each kind, the most frequent first; None where the picture is too small for it."""
    counts, text = Counter(marks.kinds).most_common(), Text.of(shape)
    fits = min(LEGEND_ROWS, max((shape[0] - 2 * text.pad) // text.height, 0))
    rows = [(marks.meaning[kind][0], f"{marks.meaning[kind][1]} {count}") for kind, count in counts[:fits]]
    if not rows:
        return None
    if len(counts) > fits:
        rows[-1] = (128, 128, 128), f"{len(counts) - fits + 1} more classes"
    width = text.height + max(text.size(words)[0] for _, words in rows)
    size = width + text.pad, len(rows) * text.height + 2 * text.pad
    if size[0] > shape[1] or size[0] * size[1] > LEGEND_SHARE * shape[0] * shape[1]:
        return None
    used = np.array([c.at for c in made.captions]).reshape(-1, 4)
    return LegendBox(rows, text, place_legend(size, boxes, made.small, used, shape), size)
