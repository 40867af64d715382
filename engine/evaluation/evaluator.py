"""The one evaluator: COCO's protocol for every dataset format; pycocotools is the reference.

Legend: T IoU thresholds, R recall thresholds, K classes, A area ranges, as in `engine.evaluation.protocol`.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.confusion import ConfusionMatrix as ConfusionMatrix  # part of this module's face
from engine.evaluation.protocol import MOST, RECALLS, Found, Objects, accumulate, id_order, judge
from engine.evaluation.reference import NUMBERS, by_pycocotools
from utils.errors import UserError
from utils.files import write_bytes
from utils.structures import Detections
from utils.truth import Truth, fullest

CONFIDENCES = np.linspace(0, 1, 1000)
LIMITS = (500, 1000, 2000, 5000, 10_000)  # detections per image and class where images hold more than 100 objects


@dataclass
class Numbers:
    """COCO's twelve numbers, in [0, 1], or -1 where no ground truth defines one; 100 detections per image and class.

    S, M, L: objects below 32^2 px, below 96^2 px, and above, by annotated area. precision, recall, f1: at IoU 0.5 and
    at the confidence where the mean F1 of the classes is best, as YOLO prints them; -1 without ground truth.
    n_images, n_labels: images and objects of the ground truth, crowds not counted as objects.
    """

    AP: float
    AP50: float
    AP75: float
    AP_S: float
    AP_M: float
    AP_L: float
    AR1: float
    AR10: float
    AR100: float
    AR_S: float
    AR_M: float
    AR_L: float
    precision: float
    recall: float
    f1: float
    n_images: int
    n_labels: int

    def numbers(self) -> dict[str, float]:
        """The twelve numbers by name, in COCO's order."""
        return {name: getattr(self, name) for name in NUMBERS}


@dataclass
class Curves:
    """Curves at IoU 0.5 of the K classes that have objects.

    classes: their indices. pr_recall (101,), pr_precision (K, 101): COCO's interpolated precision. confidence (1000,);
    precision, recall, f1 (K, 1000) over it.
    """

    classes: list[int]
    pr_recall: np.ndarray
    pr_precision: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclass
class Metrics(Numbers):
    """Numbers over all classes, the same per class, the curves, and the confidence of the best mean F1.

    unseen: images of the ground truth for which `update` was never called; their objects count as missed. beside: the
    twelve numbers by another rule, where COCO's own says too little on this ground truth, each with what it is.
    """

    confidence: float
    per_class: list[Numbers]
    curves: Curves
    unseen: int
    beside: list["Beside"] = field(default_factory=list)


@dataclass
class Beside:
    """A second row of the table: its title, why it stands there, its twelve numbers."""

    title: str
    why: str
    values: dict[str, float]


class CocoEvaluator:
    """Collects detections in the original frames and computes COCO's numbers against one ground truth.

    ground_truth: a `Truth`, or COCO JSON as `json.load` gives it (`Truth.from_coco`). category_ids: the category
    of each class index. names: of the classes, for messages.
    """

    def __init__(self, ground_truth: "Truth | dict[str, Any]", num_classes: int, category_ids: Sequence[Hashable],
                 names: Sequence[str] = ()) -> None:
        if len(category_ids) != num_classes or len(set(category_ids)) != num_classes:
            raise ValueError(f"expected {num_classes} different category ids, got {list(category_ids)}")
        given = isinstance(ground_truth, Truth)
        self.truth = ground_truth if given else Truth.from_coco(ground_truth, category_ids)
        self.names = list(names) or [str(c) for c in category_ids]
        self._place = {record: k for k, record in enumerate(self.truth.record_ids)}
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # position -> labels, xywh, scores

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Take the detections of some images, boxes in pixels of the ORIGINAL frame. Each image is taken once.

        Raises `UserError` for boxes or scores that are not finite, ValueError for an image that is unknown or comes
        twice and for labels outside the classes.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            place = self._place.get(image_id)
            if place is None:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            if place in self._found:
                raise ValueError(f"image id {image_id} was given twice")
            boxes = found.boxes.detach().cpu().double().numpy()  # (N, 4) xyxy
            scores = found.scores.detach().cpu().double().numpy()  # (N,)
            labels = found.labels.detach().cpu().numpy()  # (N,)
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise UserError(f"image id {image_id}: a detection is not finite; the model's weights have diverged")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.truth.category_ids):
                raise ValueError(f"image id {image_id}: labels outside the {len(self.truth.category_ids)} classes")
            xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            self._found[place] = labels, xywh.round(3), scores.round(5)

    def state(self) -> dict[str, np.ndarray]:
        """What was taken so far, in the ground truth's order of images whatever the order of the updates.

        images, counts (n,): positions of the images and how many detections each has; labels, scores (D,), boxes (D, 4)
        left, top, width, height of all of them.
        """
        places = sorted(self._found)
        parts = [self._found[place] for place in places]
        return {"images": np.array(places, np.int64), "counts": np.array([len(p[0]) for p in parts], np.int64),
                "labels": np.concatenate([np.zeros(0, np.int64), *(p[0] for p in parts)]),
                "boxes": np.concatenate([np.zeros((0, 4)), *(p[1] for p in parts)]),
                "scores": np.concatenate([np.zeros(0), *(p[2] for p in parts)])}

    def merge(self, state: dict[str, np.ndarray]) -> None:
        """Take what another evaluator of the same ground truth took: afterwards this one is as if it had taken both.

        Raises ValueError for an image that both have.
        """
        ends = state["counts"].cumsum().tolist()
        for place, start, end in zip(state["images"].tolist(), [0, *ends], ends, strict=False):
            if place in self._found:
                raise ValueError(f"image id {self.truth.record_ids[place]} was given twice")
            self._found[place] = tuple(state[word][start:end] for word in ("labels", "boxes", "scores"))

    def detections(self, image_id: Hashable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (N,), boxes (N, 4) left, top, width, height and scores (N,) of one image, rounded as in `results`."""
        return self._found.get(self._place[image_id], (np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)))

    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO result rows, rounded to 1/1000 px and 1e-5 score: the rows that `compute` judges.
        Images come in the order of the ground truth, under the file's own ids."""
        found, truth = self.state(), self.truth
        images = np.repeat(found["images"], found["counts"])
        columns = (found[word].tolist() for word in ("labels", "boxes", "scores"))
        return [{"image_id": truth.image_ids[place], "category_id": truth.category_ids[label], "bbox": box,
                 "score": score} for place, label, box, score in zip(images.tolist(), *columns, strict=True)]

    def save_json(self, path: Path | str) -> None:
        """Write `results()` as a COCO results file, whole or not at all."""
        write_bytes(path, json.dumps(self.results()).encode())

    def compute(self) -> Metrics:
        """COCO's numbers of what was taken so far, with those of other rules beside them where they say more."""
        objects = Objects(self.truth)
        found, arrays = self._judged(objects)
        labels = objects.counts[:, 0].tolist()
        images = [0] * len(labels)
        for (k, _), rows in objects.groups.items():
            images[k] += not objects.crowd[rows].all()
        curves = _curves(found, arrays[0], labels)
        best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
        at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in ("precision", "recall", "f1")}
                   for i, c in enumerate(curves.classes)}
        undefined = {"precision": -1.0, "recall": -1.0, "f1": -1.0}
        per_class = [Numbers(**_numbers(*(x[..., [k], :] for x in arrays)), **at_best.get(k, undefined),
                             n_images=images[k], n_labels=labels[k]) for k in range(len(labels))]
        mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in undefined} if at_best else undefined
        return Metrics(**self._means(arrays), **mean, n_images=len(self.truth.image_ids), n_labels=sum(labels),
                       confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves,
                       unseen=len(self.truth.image_ids) - len(self._found), beside=self._beside(objects))

    def reference(self) -> dict[str, float]:
        """The twelve numbers by pycocotools itself: equal to those of `compute`, and many times slower."""
        return by_pycocotools(self.truth.to_coco(), self.results())

    def _judged(self, objects: Objects, most: int = MOST) -> tuple[Found, tuple[np.ndarray, ...]]:
        taken = self.state()
        found = judge(objects, np.repeat(taken["images"], taken["counts"]), taken["labels"], taken["boxes"],
                      taken["scores"], most)
        return found, accumulate(objects, found)

    def _means(self, arrays: Sequence[np.ndarray]) -> dict[str, float]:
        """The twelve numbers, summed in pycocotools' order of categories, for equality to the last bit."""
        ids = self.truth.category_ids
        by_id = sorted(range(len(ids)), key=lambda k: id_order(ids[k]))
        return _numbers(*(x[..., by_id, :] for x in arrays))

    def _beside(self, objects: Objects) -> list[Beside]:
        """Numbers by other rules: more than 100 detections, areas of the boxes, `ignore` obeyed."""
        truth, rows = self.truth, []
        count, image, label = fullest(truth, by_class=True)
        if count > MOST:
            limit = next((limit for limit in LIMITS if limit >= count), count)
            rows.append(Beside(f"all, {limit} a class", f"image {truth.image_ids[image]} has {count} objects of class "
                               f"{self.names[label]}: COCO's numbers take the best {MOST} detections per image and "
                               f"class, so they cannot reach 1; this row takes {limit} (AP@{limit}, and AR@{limit} "
                               f"under AR100)", self._means(self._judged(objects, limit)[1])))
        odd = truth.odd_areas()
        if odd:
            rows.append(Beside("all, box areas", f"of {len(truth.areas)} areas {odd}: AP_S, AP_M, AP_L and their AR go "
                               f"by them as they are; this row goes by width times height of the boxes",
                               self._means(self._judged(Objects(truth.by_box_area()))[1])))
        if (truth.marked & ~truth.crowd).any():
            count = int((truth.marked & ~truth.crowd).sum())
            rows.append(Beside("all, `ignore`", f"{count} annotations are marked `ignore`, which pycocotools does not "
                               f"know and takes for objects; in this row they are ignore regions, as in training",
                               self._means(self._judged(Objects(truth.marked_as_crowd()))[1])))
        return rows


def _numbers(precision: np.ndarray, recall: np.ndarray, few: np.ndarray) -> dict[str, float]:
    """The twelve numbers of precision (T, R, K, A), recall (T, K, A) and (T, K, 2): means of what is defined."""
    values = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., a] for a in (1, 2, 3)),
              few[..., 0], few[..., 1], *(recall[..., a] for a in range(4))]
    defined = [v[v > -1] for v in values]
    return {name: float(v.mean()) if v.size else -1.0 for name, v in zip(NUMBERS, defined, strict=True)}


def _curves(found: Found, precision: np.ndarray, labels: list[int]) -> Curves:
    """Curves at IoU 0.5 and all areas; detections in crowds left out."""
    classes = [k for k, count in enumerate(labels) if count]
    rows = []
    for k in classes:
        counted = (found.classes == k) & (found.ignored & 1 == 0)
        rows.append(confidence_curves((found.hits[counted] & 1).astype(bool), found.scores[counted], labels[k]))
    stacked = np.array(rows).reshape(len(rows), 3, len(CONFIDENCES))
    return Curves(classes, RECALLS, precision[0][:, classes, 0].T, CONFIDENCES, *stacked.transpose(1, 0, 2))


def confidence_curves(hits: np.ndarray, scores: np.ndarray, n_labels: int) -> np.ndarray:
    """(3, 1000): precision, recall and F1 of one class over `CONFIDENCES`, interpolated as the YOLO line does.

    hits (N,) bool, scores (N,) in any order; n_labels > 0. Without detections all are 0.
    """
    if len(scores) == 0:
        return np.zeros((3, len(CONFIDENCES)))
    order = np.argsort(-scores, kind="stable")
    found = hits[order].cumsum()
    at = -scores[order]  # ascending, as np.interp wants
    precision = np.interp(-CONFIDENCES, at, found / np.arange(1, len(found) + 1), left=1)
    recall = np.interp(-CONFIDENCES, at, found / n_labels, left=0)
    return np.stack((precision, recall, 2 * precision * recall / (precision + recall + 1e-16)))


def format_table(metrics: Metrics, names: Sequence[str], per_class: bool = True) -> str:
    """An aligned text table: a row for all classes, one by each other rule, and on request one per class that has
    objects. -1 shows as '-'."""
    head, undefined = ("precision", "recall"), {"precision": -1.0, "recall": -1.0}
    rows = [("all", metrics.n_images, metrics.n_labels, vars(metrics))]
    rows += [(row.title, metrics.n_images, metrics.n_labels, row.values | undefined) for row in metrics.beside]
    if per_class:
        rows += [(names[k], numbers.n_images, numbers.n_labels, vars(numbers))
                 for k, numbers in enumerate(metrics.per_class) if numbers.n_labels]
    width = min(max(len("Class"), *(len(row[0]) for row in rows)), 24)
    lines = [f"{'Class':<{width}} {'Images':>7} {'Labels':>7}" + "".join(f" {t:>5}" for t in ("P", "R", *NUMBERS))]
    for name, n_images, n_labels, values in rows:
        shown = (values[word] for word in (*head, *NUMBERS))
        cells = "".join(f" {'-' if value < 0 else format(value, '.3f'):>5}" for value in shown)
        short = name if len(name) <= width else name[:width - 1] + "…"
        lines.append(f"{short:<{width}} {n_images:>7} {n_labels:>7}{cells}")
    absent = sum(numbers.n_labels == 0 for numbers in metrics.per_class)
    if per_class and absent:
        lines.append(f"{absent} of {len(metrics.per_class)} classes have no object in these images")
    if metrics.unseen:
        lines.append(f"{metrics.unseen} of {metrics.n_images} images were not evaluated: their objects count as missed")
    return "\n".join([*lines, *(f"{row.title}: {row.why}" for row in metrics.beside)])
