"""The evaluator: COCO's protocol for every dataset format; pycocotools is the reference.

Legend: T IoU thresholds, R recall thresholds, K classes, A area ranges, as in `engine.evaluation.protocol`.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.protocol import (
    MAX_DETECTIONS,
    RECALLS,
    GroundTruth,
    MatchedDetections,
    accumulate,
    id_order,
    match_detections,
)
from engine.evaluation.reference import STAT_NAMES, pycocotools_stats
from utils.errors import UserError
from utils.files import write_bytes
from utils.structures import Detections
from utils.truth import Truth, most_objects

CONFIDENCES = np.linspace(0, 1, 1000)
LIMITS = (500, 1000, 2000, 5000, 10_000)  # detections per image and class where images hold more than 100 objects


@dataclass
class CocoMetrics:
    """COCO's twelve metrics, in [0, 1], or -1 where there is no ground truth; 100 detections per image and class.

    S, M, L: objects below 32^2 px, below 96^2 px, and above, by annotated area. precision, recall, f1: at IoU 0.5 and
    at the confidence of the highest mean F1 over classes, as YOLO prints them; -1 without ground truth.
    n_images, n_labels: images and objects of the ground truth, without crowds.
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

    def coco_stats(self) -> dict[str, float]:
        """The twelve metrics by name, in COCO's order."""
        return {name: getattr(self, name) for name in STAT_NAMES}


@dataclass
class Curves:
    """Curves at IoU 0.5 of the K classes that have objects.

    classes: their indices. pr_recall (101,), pr_precision (K, 101): COCO's interpolated precision. confidence (1000,):
    thresholds, at which precision, recall, f1 (K, 1000) are given.
    """

    classes: list[int]
    pr_recall: np.ndarray
    pr_precision: np.ndarray
    confidence: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


@dataclass
class Metrics(CocoMetrics):
    """Metrics over all classes, per class, the curves, and the confidence of the highest mean F1.

    unseen: images of the ground truth for which `update` was never called; their objects count as missed. alternatives:
    the twelve metrics by other rules, where COCO's own are of little use on this ground truth.
    """

    confidence: float
    per_class: list[CocoMetrics]
    curves: Curves
    unseen: int
    alternatives: list["AlternativeMetrics"] = field(default_factory=list)


@dataclass
class AlternativeMetrics:
    """The twelve metrics by another rule, a row of the table; why: what the rule is and why it is shown."""

    title: str
    why: str
    values: dict[str, float]


class CocoEvaluator:
    """Collects detections in the original frames and computes COCO's metrics against one ground truth.

    ground_truth: a `Truth`, or COCO JSON as `json.load` gives it (`Truth.from_coco`). category_ids: the category
    of each class index. names: class names, for messages.
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
        """Add the detections of some images, boxes in pixels of the ORIGINAL frame; each image once.

        Raises `UserError` for boxes or scores that are not finite, ValueError for an image that is unknown or was
        added before and for labels out of range.
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
                raise UserError(f"image id {image_id}: a detection is not finite; the model's weights have diverged",
                                "not-finite")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.truth.category_ids):
                raise ValueError(f"image id {image_id}: labels outside the {len(self.truth.category_ids)} classes")
            xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            self._found[place] = labels, xywh.round(3), scores.round(5)

    def state(self) -> dict[str, np.ndarray]:
        """All detections added so far, in the ground truth's order of images, whatever the order of the updates.

        images, counts (n,): positions of the images and number of detections of each; labels, scores (D,), boxes (D, 4)
        left, top, width, height.
        """
        places = sorted(self._found)
        parts = [self._found[place] for place in places]
        return {"images": np.array(places, np.int64), "counts": np.array([len(p[0]) for p in parts], np.int64),
                "labels": np.concatenate([np.zeros(0, np.int64), *(p[0] for p in parts)]),
                "boxes": np.concatenate([np.zeros((0, 4)), *(p[1] for p in parts)]),
                "scores": np.concatenate([np.zeros(0), *(p[2] for p in parts)])}

    def merge(self, state: dict[str, np.ndarray]) -> None:
        """Add the detections of another evaluator of the same ground truth, from its `state`.

        Raises ValueError for an image that both have.
        """
        ends = state["counts"].cumsum().tolist()
        for place, start, end in zip(state["images"].tolist(), [0, *ends], ends, strict=False):
            if place in self._found:
                raise ValueError(f"image id {self.truth.record_ids[place]} was given twice")
            self._found[place] = tuple(state[key][start:end] for key in ("labels", "boxes", "scores"))

    def detections(self, image_id: Hashable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels (N,), boxes (N, 4) left, top, width, height and scores (N,) of one image, rounded as in `results`."""
        return self._found.get(self._place[image_id], (np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)))

    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO result rows, rounded to 1/1000 px and 1e-5 score: the rows that `compute` judges.
        Images come in the order of the ground truth, under the file's own ids."""
        found, truth = self.state(), self.truth
        images = np.repeat(found["images"], found["counts"])
        columns = (found[key].tolist() for key in ("labels", "boxes", "scores"))
        return [{"image_id": truth.image_ids[place], "category_id": truth.category_ids[label], "bbox": box,
                 "score": score} for place, label, box, score in zip(images.tolist(), *columns, strict=True)]

    def save_json(self, path: Path | str) -> None:
        """Write `results()` as a COCO results file, atomically."""
        write_bytes(path, json.dumps(self.results()).encode())

    def compute(self) -> Metrics:
        """COCO's metrics of the detections added so far, and those by other rules where they tell more."""
        objects = GroundTruth(self.truth)
        found, arrays = self._match(objects)
        labels = objects.counts[:, 0].tolist()
        images = [0] * len(labels)
        for (k, _), rows in objects.groups.items():
            images[k] += not objects.crowd[rows].all()
        curves = _curves(found, arrays[0], labels)
        best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
        at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in ("precision", "recall", "f1")}
                   for i, c in enumerate(curves.classes)}
        undefined = {"precision": -1.0, "recall": -1.0, "f1": -1.0}
        per_class = [CocoMetrics(**_coco_stats(*(x[..., [k], :] for x in arrays)), **at_best.get(k, undefined),
                             n_images=images[k], n_labels=labels[k]) for k in range(len(labels))]
        mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in undefined} if at_best else undefined
        return Metrics(**self._means(arrays), **mean, n_images=len(self.truth.image_ids), n_labels=sum(labels),
                       confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves,
                       unseen=len(self.truth.image_ids) - len(self._found), alternatives=self._alternatives(objects))

    def reference(self) -> dict[str, float]:
        """The twelve metrics by pycocotools itself: equal to those of `compute`, and many times slower."""
        return pycocotools_stats(self.truth.to_coco(), self.results())

    def _match(self, objects: GroundTruth,
               max_det: int = MAX_DETECTIONS) -> tuple[MatchedDetections, tuple[np.ndarray, ...]]:
        state = self.state()
        found = match_detections(objects, np.repeat(state["images"], state["counts"]), state["labels"], state["boxes"],
                                 state["scores"], max_det)
        return found, accumulate(objects, found)

    def _means(self, arrays: Sequence[np.ndarray]) -> dict[str, float]:
        """The twelve metrics, summed in pycocotools' order of categories so that they are bit-identical."""
        ids = self.truth.category_ids
        by_id = sorted(range(len(ids)), key=lambda k: id_order(ids[k]))
        return _coco_stats(*(x[..., by_id, :] for x in arrays))

    def _alternatives(self, objects: GroundTruth) -> list[AlternativeMetrics]:
        """Metrics by other rules: more than 100 detections, box areas, `ignore` respected."""
        truth, rows = self.truth, []
        count, image, label = most_objects(truth, by_class=True)
        if count > MAX_DETECTIONS:
            limit = next((limit for limit in LIMITS if limit >= count), count)
            why = (f"image {truth.image_ids[image]} has {count} objects of class {self.names[label]}: COCO's numbers "
                   f"take the best {MAX_DETECTIONS} detections per image and class, so they cannot reach 1; this row "
                   f"takes {limit} (AP@{limit}, and AR@{limit} under AR100)")
            rows.append(AlternativeMetrics(f"all, {limit} a class", why, self._means(self._match(objects, limit)[1])))
        odd = truth.odd_areas()
        if odd:
            why = (f"of {len(truth.areas)} areas {odd}: AP_S, AP_M, AP_L and their AR go by them as they are; this row "
                   f"goes by width times height of the boxes")
            rows.append(AlternativeMetrics("all, box areas", why,
                                           self._means(self._match(GroundTruth(truth.by_box_area()))[1])))
        count = int((truth.marked & ~truth.crowd).sum())
        if count:
            why = (f"{count} annotations are marked `ignore`, which pycocotools does not know and takes for objects; "
                   f"in this row they are ignore regions, as in training")
            rows.append(AlternativeMetrics("all, `ignore`", why,
                                           self._means(self._match(GroundTruth(truth.marked_as_crowd()))[1])))
        return rows


def _coco_stats(precision: np.ndarray, recall: np.ndarray, recall_at_1_10: np.ndarray) -> dict[str, float]:
    """The twelve metrics of precision (T, R, K, A), recall (T, K, A) and (T, K, 2): means of the defined values."""
    values = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., a] for a in (1, 2, 3)),
              recall_at_1_10[..., 0], recall_at_1_10[..., 1], *(recall[..., a] for a in range(4))]
    defined = [v[v > -1] for v in values]
    return {name: float(v.mean()) if v.size else -1.0 for name, v in zip(STAT_NAMES, defined, strict=True)}


def _curves(found: MatchedDetections, precision: np.ndarray, labels: list[int]) -> Curves:
    """Curves at IoU 0.5 over all areas, without detections in crowds."""
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
    at = -scores[order]  # ascending, as np.interp requires
    precision = np.interp(-CONFIDENCES, at, found / np.arange(1, len(found) + 1), left=1)
    recall = np.interp(-CONFIDENCES, at, found / n_labels, left=0)
    return np.stack((precision, recall, 2 * precision * recall / (precision + recall + 1e-16)))


def format_table(metrics: Metrics, names: Sequence[str], per_class: bool = True) -> str:
    """A text table: a row for all classes, one for each alternative, and on request one per class that has objects;
    undefined values (-1) are '-'."""
    head, undefined = ("precision", "recall"), {"precision": -1.0, "recall": -1.0}
    rows = [("all", metrics.n_images, metrics.n_labels, vars(metrics))]
    rows += [(row.title, metrics.n_images, metrics.n_labels, row.values | undefined) for row in metrics.alternatives]
    if per_class:
        rows += [(names[k], row.n_images, row.n_labels, vars(row))
                 for k, row in enumerate(metrics.per_class) if row.n_labels]
    width = min(max(len("Class"), *(len(row[0]) for row in rows)), 24)
    lines = [f"{'Class':<{width}} {'Images':>7} {'Labels':>7}" + "".join(f" {t:>5}" for t in ("P", "R", *STAT_NAMES))]
    for name, n_images, n_labels, values in rows:
        shown = (values[key] for key in (*head, *STAT_NAMES))
        cells = "".join(f" {'-' if value < 0 else format(value, '.3f'):>5}" for value in shown)
        short = name if len(name) <= width else name[:width - 1] + "…"
        lines.append(f"{short:<{width}} {n_images:>7} {n_labels:>7}{cells}")
    absent = sum(row.n_labels == 0 for row in metrics.per_class)
    if per_class and absent:
        lines.append(f"{absent} of {len(metrics.per_class)} classes have no object in these images")
    if metrics.unseen:
        lines.append(f"{metrics.unseen} of {metrics.n_images} images were not evaluated: their objects count as missed")
    return "\n".join([*lines, *(f"{row.title}: {row.why}" for row in metrics.alternatives)])
