"""Drawing boxes on images. Images are (H, W, 3) uint8 BGR, boxes xyxy pixels."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from torch import Tensor

from utils.reporting.fonts import put_text
from utils.reporting.layout import AUTOMATIC, Layout, LegendBox, Marks, Style, Text, class_name, line_widths, plan
from utils.reporting.palette import Colour, class_colours, color, ink_on
from utils.structures import Detections

__all__ = ["AUTOMATIC", "WRITABLE_SUFFIXES", "Marks", "Style", "class_name", "color", "draw_box", "draw_detections",
           "draw_frame", "draw_legend", "draw_marks", "marks_of", "write_caption"]
# Of image files that OpenCV writes; those that it reads are `data.formats.paths.IMAGE_SUFFIXES`.
WRITABLE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
FAR = 1e5  # pixels: OpenCV's integers overflow far outside
SHADE = 0.35  # of the picture that is seen through a legend


def draw_detections(image: np.ndarray, detections: Detections, names: Sequence[str], style: Style = AUTOMATIC,
                    ids: Tensor | None = None) -> np.ndarray:
    """A copy of `image` with its detections, in pixels of `image`, the highest score on top.

    Lines lie around the objects; captions cover no small object, and where there are many, or no room, a legend names
    the colours (`utils.reporting.layout`). ids: (N,) of a tracker.
    """
    picture = np.ascontiguousarray(image).copy()
    draw_marks(picture, marks_of(detections, names, style, ids), style.line)
    return picture


def marks_of(detections: Detections, names: Sequence[str], style: Style = AUTOMATIC,
             ids: Tensor | None = None) -> Marks:
    """Boxes in the colours of their classes with captions such as `#3 car 0.87`, or `#3 car` where that is too long."""
    labels = detections.labels.tolist()
    meaning = {label: (colour, class_name(names, label)) for label, colour in class_colours(labels).items()}
    words, numbers = [meaning[label][1] for label in labels], None
    if ids is not None:
        numbers = [f"#{number}" if number > 0 else "" for number in ids.tolist()]
        words = [f"{number} {word}".strip() for number, word in zip(numbers, words, strict=True)]
    forms = [words] * style.labels
    if style.labels and style.scores:
        scores = detections.scores.tolist()
        forms.insert(0, [f"{word} {score:.2f}" for word, score in zip(words, scores, strict=True)])
    return Marks(detections.boxes.detach().cpu().double().numpy(), labels, meaning, forms, numbers)


def draw_marks(picture: np.ndarray, marks: Marks, line: int | None = None) -> Layout:
    """Draw boxes with captions into `picture`; returns how they are laid out. line: as in `Style`."""
    marks = replace(marks, boxes=np.clip(np.nan_to_num(marks.boxes), -FAR, FAR))
    layout = plan(marks, picture.shape[:2], line)
    if layout.legend:  # below the boxes: where there is no free spot, it hides none
        draw_legend(picture, layout.legend)
    colours = [marks.meaning[kind][0] for kind in marks.kinds]
    rows = list(zip(marks.boxes.tolist(), colours, layout.lines, strict=True))[::-1]
    small = layout.small[::-1].tolist()
    insides = _insides(picture, marks.boxes[layout.small])
    for is_small in (False, True):
        if is_small:  # no line of a larger box crosses a small object
            for part, inside in insides:
                part[:] = inside
        for (box, colour, width), own in zip(rows, small, strict=True):
            if own == is_small:
                draw_frame(picture, box, colour, width)
    for caption in layout.captions:
        write_caption(picture, caption.words, caption.at, colours[caption.row], layout.text)
    return layout


def _insides(picture: np.ndarray, boxes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The parts of a picture within boxes (N, 4), as views and as copies."""
    corners = np.concatenate((np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])), 1).clip(0).astype(int).tolist()
    views = [picture[y1:y2, x1:x2] for x1, y1, x2, y2 in corners]
    return [(view, view.copy()) for view in views]


def draw_frame(picture: np.ndarray, box: Sequence[float], colour: Colour, line: int = 1) -> None:
    """Draw the border of a box into `picture`, around it and not on it, so that small objects stay visible; a box that
    reaches the picture's edge has its line at the edge."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = box
    # The pixels left of column floor(x1) and right of column ceil(x2) - 1 are outside.
    left, top = min(max(int(x1 // 1), line), width - 1), min(max(int(y1 // 1), line), height - 1)
    right, bottom = max(min(int(-(-x2 // 1)), width - line), 0), max(min(int(-(-y2 // 1)), height - line), 0)
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        return
    if line == 1:
        cv2.rectangle(picture, (left - 1, top - 1), (right, bottom), colour, 1)
        return
    outer = (left - line, top - line), (right + line - 1, bottom + line - 1)
    for corner, opposite in ((outer[0], (outer[1][0], top - 1)), ((outer[0][0], bottom), outer[1]),
                             (outer[0], (left - 1, outer[1][1])), ((right, outer[0][1]), outer[1])):
        cv2.rectangle(picture, corner, opposite, colour, -1)


def write_caption(picture: np.ndarray, words: str, at: Sequence[int], colour: Colour, text: Text) -> None:
    """Write words on a filled rectangle `at`, xyxy pixels, of `text.size(words)`."""
    left, top, right, bottom = at
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, -1)
    put_text(picture, words, (left + text.pad, bottom - text.pad - text.below), text.scale, ink_on(colour), text.weight)


def draw_box(picture: np.ndarray, box: Sequence[float], colour: Colour, caption: str = "",
             line: int | None = None) -> None:
    """Draw one box into `picture`, alone: with a caption at it that stays inside the picture, whatever is there."""
    shape, array = picture.shape[:2], np.clip(np.array([box], float), -FAR, FAR)
    line = line_widths(array, shape, line)[0]
    draw_frame(picture, array[0].tolist(), colour, line)
    if not caption:
        return
    text = Text.of(shape)
    width, height = text.size(caption)
    left = max(min(int(array[0, 0]) - line, shape[1] - width), 0)
    top = int(array[0, 1]) - line - height
    top = top if top >= 0 else min(max(int(array[0, 1]), 0), max(shape[0] - height, 0))
    write_caption(picture, caption, (left, top, left + width, top + height), colour, text)


def draw_legend(picture: np.ndarray, legend: LegendBox) -> None:
    """Draw colours with their meanings on a dark ground through which the picture is seen."""
    (left, top), (width, height), text = legend.at, legend.size, legend.text
    part = picture[top:top + height, left:left + width]
    part[:] = cv2.convertScaleAbs(part, alpha=SHADE)
    inset = max(text.height // 4, 1)
    for k, (colour, words) in enumerate(legend.rows):
        x, y = left + text.pad, top + text.pad + k * text.height
        cv2.rectangle(picture, (x + inset, y + inset), (x + text.height - inset - 1, y + text.height - inset - 1),
                      colour, -1)
        origin = x + text.height, y + text.height - text.pad - text.below
        put_text(picture, words, origin, text.scale, (255, 255, 255), text.weight)
