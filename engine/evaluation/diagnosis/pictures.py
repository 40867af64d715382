"""Pictures of a diagnosis: whole images with hits, misses and false alarms, and missed objects enlarged.

Colours are those of Okabe and Ito, which colour-blind readers tell apart. Lines are thin and lie around the objects,
not on them; nothing is written over a picture.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from data.images.store import read_whole
from data.labels.records import Record
from engine.evaluation.diagnosis.causes import CAUSES
from engine.evaluation.diagnosis.diagnose import Diagnosis, View
from utils.truth import SMALL_SIDE

HIT, FOUND, MISSED, ALARM, CROWD = "#009e73", "#56b4e9", "#d55e00", "#f0e442", "#999999"
LEGEND = ((MISSED, "missed object"), (FOUND, "object that was found"), (HIT, "detection that found it"),
          (ALARM, "false alarm"), (CROWD, "region that is not judged"))
WORST, NARROW, WIDEST = 6, 480, 1280  # whole pictures; pixels of the longest side: smaller ones are doubled
CROPS, CROP, SPAN = 12, 150, 48  # crops of a cause, the side of one, and least surroundings that one shows, in pixels


@dataclass(frozen=True)
class Picture:
    """uri: the picture as a data URI, '' where the image cannot be decoded; row: the position of the image, or of the
    object, in the truth."""

    row: int
    uri: str
    size: tuple[int, int] = (0, 0)  # width, height


def worst_images(told: Diagnosis, view: View, records: Mapping[object, Record]) -> list[Picture]:
    """The images with most missed objects, of equal ones those with more false alarms, then the first."""
    n = len(told.truth.image_ids)
    missed = np.bincount(told.truth.image[view.missed], minlength=n)
    alarms = np.bincount(told.found.images[view.alarms], minlength=n)
    order = np.lexsort((np.arange(n), -alarms, -missed))[:WORST]
    return [_whole(told, view, records, place) for place in order[missed[order] > 0].tolist()]


def missed_crops(told: Diagnosis, view: View, records: Mapping[object, Record]) -> dict[int, list[Picture]]:
    """Some missed objects of each cause, by its position in `CAUSES`: small ones where there are any, evenly over their
    sizes, so that no choice is anybody's."""
    chosen: dict[int, np.ndarray] = {}
    for cause in range(len(CAUSES)):
        rows = np.flatnonzero(view.causes == cause)
        small = rows[told.sides[rows] < SMALL_SIDE]
        rows = small if len(small) else rows
        rows = rows[np.argsort(told.sides[rows], kind="stable")]
        if len(rows):
            chosen[cause] = rows[np.unique(np.linspace(0, len(rows) - 1, CROPS).round().astype(int))]
    crops: dict[int, Picture] = {}
    wanted = np.concatenate([np.zeros(0, np.int64), *chosen.values()])
    for place in np.unique(told.truth.image[wanted]).tolist():  # each image is decoded once
        image = _read(told, records, place)
        for row in wanted[told.truth.image[wanted] == place].tolist():
            crops[row] = _crop(told, view, image, row)
    return {cause: [crops[row] for row in rows.tolist()] for cause, rows in chosen.items()}


def _read(told: Diagnosis, records: Mapping[object, Record], place: int) -> np.ndarray | None:
    record = records.get(told.truth.record_ids[place])
    whole = None if record is None else read_whole(record)
    if whole is None or record.window is None:
        return whole
    x1, y1, x2, y2 = record.window
    return whole[y1:y2, x1:x2]


def _whole(told: Diagnosis, view: View, records: Mapping[object, Record], place: int) -> Picture:
    image = _read(told, records, place)
    if image is None:
        return Picture(place, "")
    longest = max(image.shape[:2])
    scale = 2.0 if longest < NARROW else min(WIDEST / longest, 1.0)
    if scale != 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else
                           cv2.INTER_NEAREST)
    picture = np.ascontiguousarray(image)
    _draw(picture, told, view, place, (np.zeros(2), scale))
    return Picture(place, _uri(picture, 85), picture.shape[1::-1])


def _crop(told: Diagnosis, view: View, image: np.ndarray | None, row: int) -> Picture:
    """A square around one missed object, four times its longer side."""
    if image is None:
        return Picture(row, "")
    box = told.truth.boxes[row]
    side = max(4 * box[2:].max(), SPAN)
    low = np.floor(box[:2] + box[2:] / 2 - side / 2).astype(int)
    side = int(np.ceil(side))
    ends = np.clip([*low, *(low + side)], 0, np.tile(image.shape[1::-1], 2))
    canvas = np.full((side, side, 3), 235, np.uint8)  # beyond the image
    x1, y1, x2, y2 = ends
    canvas[y1 - low[1]:y2 - low[1], x1 - low[0]:x2 - low[0]] = image[y1:y2, x1:x2]
    scale = CROP * 2 / side  # drawn at twice its size on the page, for sharp print
    picture = cv2.resize(canvas, (CROP * 2, CROP * 2), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    _draw(picture, told, view, int(told.truth.image[row]), (low, scale), only=row)
    return Picture(row, _uri(picture, 80), (CROP, CROP))


def _draw(picture: np.ndarray, told: Diagnosis, view: View, place: int, to: tuple[np.ndarray, float],
          only: int | None = None) -> None:
    """Draw what lies on one image, what matters most last; to: offset and scale of the picture. only: the missed object
    that a crop is about, with a wider line than the others."""
    truth, found = told.truth, told.found
    own = np.flatnonzero(truth.image == place)
    rows = np.arange(*np.searchsorted(found.images, (place, place + 1)))
    rows = rows[found.scores[rows] >= view.least]
    state = told.matches.state[rows]
    missed = own[view.missed[own]]
    thin = 1 if only is None else 2  # a crop is drawn at twice the size that it is shown at
    layers = ((truth.boxes[own[truth.crowd[own]]], CROWD, thin), (found.boxes[rows[state == 0]], ALARM, thin),
              (truth.boxes[own[told.counted[own] & ~view.missed[own]]], FOUND, thin),
              (found.boxes[rows[state == 1]], HIT, thin), (truth.boxes[missed[missed != only]], MISSED, 2),
              (truth.boxes[[] if only is None else [only]], MISSED, 3))
    for boxes, colour, weight in layers:
        for box in boxes:
            _frame(picture, box, colour, weight, to)


def _frame(picture: np.ndarray, box: np.ndarray, colour: str, weight: int, to: tuple[np.ndarray, float]) -> None:
    """The border of a box, drawn outside it: the object stays visible however small it is."""
    low, scale = to
    x1, y1 = np.floor((box[:2] - low) * scale).astype(int) - 1
    x2, y2 = np.ceil((box[:2] + box[2:] - low) * scale).astype(int)
    height, width = picture.shape[:2]
    red, green, blue = bytes.fromhex(colour[1:])
    for step in range(weight):
        left, top, right, bottom = x1 - step, y1 - step, x2 + step, y2 + step
        if left >= width or top >= height or right < 0 or bottom < 0:
            return
        across, down = slice(max(left, 0), right + 1), slice(max(top, 0), bottom + 1)
        for y in (y for y in (top, bottom) if 0 <= y < height):
            picture[y, across] = blue, green, red
        for x in (x for x in (left, right) if 0 <= x < width):
            picture[down, x] = blue, green, red


def _uri(picture: np.ndarray, quality: int) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality,
                                             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
