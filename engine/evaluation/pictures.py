"""Images of an evaluation with what became of their objects and detections, and the smallest objects enlarged.

What is a hit, a miss and a false alarm is said by the evaluator's own matching (`metrics.matching`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data import Index
from data.images.store import read_frame
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import match_at
from utils.reporting import palette
from utils.reporting.draw import Marks, class_name, draw_marks, marks_of
from utils.reporting.mosaic import save_mosaic, shrunk, square, surroundings, titled, to_picture, truth_marks
from utils.structures import Batch, Detections, Letterbox
from utils.truth import Truth

CONF, IOU = 0.25, 0.5  # what a detection must score to be drawn, and overlap to be a hit
IMAGES = 8  # of a batch
CROPS, ACROSS, CROP = 24, 6, 224  # enlarged objects, in a row, pixels of each
MISSED, HIT, ALARM, FOUND, UNJUDGED = range(5)  # kinds, those that matter most first
MEANING = {MISSED: (palette.MISSED, "missed object"), HIT: (palette.HIT, f"hit (IoU >= {IOU}, its class)"),
           ALARM: (palette.ALARM, "false alarm"), FOUND: (palette.FOUND, "object that was found"),
           UNJUDGED: (palette.CROWD, "not judged (ignore region)")}
LEGEND = tuple(MEANING[kind] for kind in (MISSED, HIT, ALARM, UNJUDGED))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of the objects, M of them, and of the detections above `CONF`, D of them.

    kind (D,): `HIT`, `ALARM` or `UNJUDGED`; missed (M,) bool.
    """

    truth: Truth
    found: Found
    kind: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, truth: Truth, found: Found) -> "Outcomes":
        """By the matching of the metrics, at IoU 0.5."""
        found = found[found.scores > CONF]
        matches = match_at(truth, found, [IOU])[0]
        missed = ~truth.crowd
        missed[matches.objects[matches.objects >= 0]] = False
        return cls(truth, found, np.select([matches.state == 1, matches.state == 0], [HIT, ALARM], UNJUDGED), missed)

    def detections(self, place: int) -> Detections:
        """Those on the image at one position, in its pixels."""
        labels, boxes, scores = self.found.of(place)
        order = np.argsort(-scores, kind="stable")
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        return Detections(*(torch.from_numpy(column[order]) for column in (corners, scores, labels)))

    def marks(self, place: int, names: Sequence[str], first: int = -1) -> Marks:
        """What is drawn on the image at one position, boxes in its pixels; the object `first` before all others."""
        own = np.flatnonzero(self.truth.image == place)
        own = own[self.missed[own] | self.truth.crowd[own] | (own == first)]
        own = own[np.argsort(own != first, kind="stable")]
        rows = np.arange(*np.searchsorted(self.found.images, (place, place + 1)))
        kinds = np.concatenate((np.where(self.truth.crowd[own], UNJUDGED, np.where(self.missed[own], MISSED, FOUND)),
                                self.kind[rows]))
        words = [class_name(names, label) for label in self.truth.label[own].tolist()]
        words += [f"{class_name(names, label)} {score:.2f}" for label, score in
                  zip(self.found.labels[rows].tolist(), self.found.scores[rows].tolist(), strict=True)]
        boxes = np.concatenate((self.truth.boxes[own], self.found.boxes[rows]))
        boxes[:, 2:] += boxes[:, :2]
        order = np.lexsort((kinds, np.arange(len(kinds)) >= (first >= 0)))
        return Marks(boxes[order], kinds[order].tolist(), MEANING, [[words[k] for k in order.tolist()]], legend=False)


def draw_batches(result: Evaluation, index: Index, folder: Path) -> None:
    """val_batch0.jpg, ...: the first batches, ground truth beside what became of it, and val_small_objects.jpg."""
    if not result.plot_batches and not len(result.truth.image):
        return
    outcomes, collected = Outcomes.of(result.truth, result.found), {r: k for k, r in enumerate(result.truth.record_ids)}
    for number, (batch, _) in enumerate(result.plot_batches):
        places = [collected[image_id] for image_id in batch.image_ids]
        draw_batch(outcomes, batch, places, index, folder / f"val_batch{number}.jpg")
    draw_small_objects(outcomes, index, folder / "val_small_objects.jpg")


def draw_batch(outcomes: Outcomes, batch: Batch, places: Sequence[int], index: Index, path: Path) -> None:
    """The first images of a batch without their padding: ground truth by class, beside it hits, misses and false
    alarms. places: positions of the images in the truth."""
    cells, records = [], index.of_ids(batch.image_ids[:IMAGES])
    rows = zip(batch.images, batch.targets.unpack(), batch.letterboxes, places, records, strict=False)
    for image, targets, letterbox, place, record in rows:
        picture, scale = shrunk(_content(to_picture(image), letterbox))
        name, zoom = Path(record.path).name, np.tile(letterbox.scale, 2) * scale
        if not len(outcomes.truth.image):  # without labels nothing is right or wrong
            cells.append(_cell(picture, marks_of(outcomes.detections(place), index.names), zoom, name))
            continue
        marks, shift = truth_marks(targets, index.names), np.tile(letterbox.pad, 2)
        cells.append(_cell(picture.copy(), replace(marks, boxes=marks.boxes - shift), scale, f"{name}  truth"))
        marks = outcomes.marks(place, index.names)
        counts = [marks.kinds.count(kind) for kind in (HIT, MISSED, ALARM)]
        cells.append(_cell(picture, marks, zoom, "{} hit, {} missed, {} false".format(*counts)))
    legend = LEGEND if len(outcomes.truth.image) else ()
    save_mosaic(cells, 2 * math.ceil(math.sqrt(len(cells) / 4)), path, legend)


def _cell(picture: np.ndarray, marks: Marks, scale: float | np.ndarray, title: str) -> np.ndarray:
    """A cell of a mosaic, drawn into `picture`; scale: what boxes are multiplied by."""
    draw_marks(picture, replace(marks, boxes=marks.boxes * scale))
    return titled(picture, title)


def _content(picture: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """The part of a frame that is the image, without the padding."""
    (left, top), (height, width) = letterbox.pad, letterbox.content
    return np.ascontiguousarray(picture[top:top + height, left:left + width])


def draw_small_objects(outcomes: Outcomes, index: Index, path: Path) -> None:
    """The smallest missed objects, then the smallest that were found, enlarged with their surroundings; one of each
    image while there are enough images. Nothing where no image can be read."""
    truth, cells = outcomes.truth, []
    for row in smallest(truth, outcomes.missed):
        place = int(truth.image[row])
        record, = index.of_ids([truth.record_ids[place]])
        image = read_frame(record)
        if image is None:
            continue
        low, side = surroundings(truth.boxes[row])
        picture, zoom = square(image, low, side, CROP), CROP / side
        marks = outcomes.marks(place, index.names, row)
        boxes = (marks.boxes - np.tile(low, 2)) * zoom
        inside = np.flatnonzero((boxes[:, :2] < CROP).all(1) & (boxes[:, 2:] > 0).all(1)).tolist()
        draw_marks(picture, Marks(boxes[inside[1:]], [marks.kinds[k] for k in inside[1:]], MEANING), 1)
        draw_marks(picture, Marks(boxes[:1], marks.kinds[:1], MEANING), 2)
        width, height = truth.boxes[row, 2:].tolist()
        words = f"{class_name(index.names, int(truth.label[row]))} {width:.0f}x{height:.0f}"
        picture = titled(picture, f"{words} {'missed' if outcomes.missed[row] else 'found'}")
        cells.append(titled(picture, Path(record.path).name))
    save_mosaic(cells, ACROSS, path, tuple(MEANING.values()))


def smallest(truth: Truth, missed: np.ndarray) -> list[int]:
    """Rows of up to `CROPS` objects: the smallest missed ones, then the smallest found ones, half of each where there
    are as many."""
    sides = np.sqrt(truth.boxes[:, 2:].prod(1))
    groups = []
    for rows in (np.flatnonzero(missed), np.flatnonzero(~missed & ~truth.crowd)):
        rows = rows[np.argsort(sides[rows], kind="stable")]
        first = np.sort(np.unique(truth.image[rows], return_index=True)[1])  # the smallest of each image
        groups.append(np.concatenate((rows[first], np.delete(rows, first))))
    half = max(CROPS - len(groups[1]), CROPS // 2)
    chosen = groups[0][:half]
    return [*chosen.tolist(), *groups[1][:CROPS - len(chosen)].tolist()]
