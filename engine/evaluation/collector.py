"""Collects the detections of an evaluation, batch by batch, in the original frames."""

from collections.abc import Hashable, Sequence

import numpy as np

from engine.evaluation.metrics.found import Found
from utils.errors import UserError
from utils.structures import Detections
from utils.truth import Truth


class Collector:
    """The detections on the images of one truth, each image once, rounded to 1/1000 px and 1e-5 of score: what is
    judged is what results files hold, to the last digit."""

    def __init__(self, truth: Truth, names: Sequence[str] = ()) -> None:
        self.truth = truth
        self.names = list(names) or [str(category) for category in truth.category_ids]
        self._place = {record: k for k, record in enumerate(truth.record_ids)}
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # position -> labels, boxes, scores

    def place(self, image_id: Hashable) -> int:
        """The position of an image in the truth, by the id of its record. Raises ValueError for an unknown one."""
        place = self._place.get(image_id)
        if place is None:
            raise ValueError(f"image id {image_id} is not in the ground truth")
        return place

    def update(self, image_ids: Sequence[Hashable], detections: Sequence[Detections]) -> None:
        """Add the detections of some images, boxes in pixels of the ORIGINAL frame; each image once.

        Raises `UserError` for boxes or scores that are not finite, ValueError for an image that is unknown or was
        added before and for labels out of range.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            place = self.place(image_id)
            if place in self._found:
                raise ValueError(f"image id {image_id} was given twice")
            boxes = found.boxes.detach().cpu().double().numpy()  # (N, 4) xyxy
            scores = found.scores.detach().cpu().double().numpy()  # (N,)
            labels = found.labels.detach().cpu().numpy()  # (N,)
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise UserError(f"image id {image_id}: a detection is not finite; the model's weights have diverged",
                                "not-finite")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.truth.category_ids):
                raise ValueError(f"image id {image_id}: labels outside the {len(self.truth.category_ids)} classes")
            xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            self._found[place] = labels, xywh.round(3), scores.round(5)

    def found(self) -> Found:
        """All detections so far, in the truth's order of images, whatever the order of the updates."""
        places, n = sorted(self._found), len(self.truth.image_ids)
        parts = [self._found[place] for place in places]
        labels, boxes, scores = (np.concatenate([empty, *(part[k] for part in parts)]) for k, empty in
                                 enumerate((np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))))
        seen = np.zeros(n, bool)
        seen[places] = True
        return Found(seen, np.repeat(np.array(places, np.int64), [len(part[0]) for part in parts]), labels, boxes,
                     scores)

    def merge(self, found: Found) -> None:
        """Add the detections that another process collected. Raises ValueError for an image that both have."""
        for place in np.flatnonzero(found.seen).tolist():
            if place in self._found:
                raise ValueError(f"image id {self.truth.record_ids[place]} was given twice")
            self._found[place] = found.of(place)
