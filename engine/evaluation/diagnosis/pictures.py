"""Pictures of a diagnosis: whole images with hits, misses and false alarms, and missed objects enlarged.

Lines are thin and lie around the objects, not on them; nothing is written over a picture.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from data.images.store import read_frame
from data.labels.records import Record
from engine.evaluation.diagnosis.causes import CAUSES
from engine.evaluation.diagnosis.diagnose import Diagnosis, View
from utils.reporting.draw import draw_frame
from utils.reporting.mosaic import square, surroundings
from utils.reporting.palette import ALARM, CROWD, FOUND, HIT, MISSED, to_hex
from utils.truth import SMALL_SIDE

LEGEND = tuple((to_hex(colour), words) for colour, words in (
    (MISSED, "missed object"), (FOUND, "object that was found"), (HIT, "detection that found it"),
    (ALARM, "false alarm"), (CROWD, "region that is not judged")))
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
    return None if record is None else read_frame(record)


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
    low, side = surroundings(told.truth.boxes[row], least=SPAN)
    picture, scale = square(image, low, side, CROP * 2), CROP * 2 / side  # twice its size on the page: sharp print
    _draw(picture, told, view, int(told.truth.image[row]), (np.array(low), scale), only=row)
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
    low, scale = to
    for boxes, colour, weight in layers:
        for x, y, width, height in boxes.tolist():
            corners = (np.array((x, y, x + width, y + height)) - np.tile(low, 2)) * scale
            draw_frame(picture, corners.tolist(), colour, weight)


def _uri(picture: np.ndarray, quality: int) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality,
                                             cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
