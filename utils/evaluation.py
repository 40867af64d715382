"""The one evaluator: COCO's protocol for every dataset format; pycocotools is the reference.

Legend: T IoU thresholds, R recall thresholds, K classes, A area ranges, as in `utils.coco_protocol`.
"""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.coco_protocol import RECALLS, Found, Objects, accumulate, judge
from utils.confusion import ConfusionMatrix as ConfusionMatrix  # part of this module's face
from utils.errors import UserError
from utils.files import write_bytes
from utils.structures import Detections

CONFIDENCES = np.linspace(0, 1, 1000)
NUMBERS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR1", "AR10", "AR100", "AR_S", "AR_M", "AR_L")


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

    unseen: images of the ground truth for which `update` was never called; their objects count as missed.
    """

    confidence: float
    per_class: list[Numbers]
    curves: Curves
    unseen: int


class CocoEvaluator:
    """Collects detections in the original frames and computes COCO's numbers against one ground truth.

    ground_truth: COCO JSON form; `area` falls back to that of the box, `iscrowd` to 0. category_ids: the category of
    each class index, any ints. Raises `UserError` where the ground truth names images or categories it does not have.
    """

    def __init__(self, ground_truth: dict[str, Any], num_classes: int, category_ids: Sequence[int]) -> None:
        if len(category_ids) != num_classes or len(set(category_ids)) != num_classes:
            raise ValueError(f"expected {num_classes} different category ids, got {list(category_ids)}")
        self.category_ids = [int(c) for c in category_ids]
        self._images = [int(image["id"]) for image in ground_truth["images"]]
        self._rows = _truth_rows(ground_truth, set(self._images), set(self.category_ids))
        self._objects = Objects(self._rows, self._images, self.category_ids)
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # image id -> labels, xywh, scores

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Take the detections of some images, boxes in pixels of the ORIGINAL frame. Each image is taken once.

        Raises `UserError` for boxes or scores that are not finite, ValueError for an image that is unknown or comes
        twice and for labels outside the classes.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            if image_id not in self._objects.image_place:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            if image_id in self._found:
                raise ValueError(f"image id {image_id} was given twice")
            boxes = found.boxes.detach().cpu().double().numpy()  # (N, 4) xyxy
            scores = found.scores.detach().cpu().double().numpy()  # (N,)
            labels = found.labels.detach().cpu().numpy()  # (N,)
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise UserError(f"image id {image_id}: a detection is not finite; the model's weights have diverged")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.category_ids):
                raise ValueError(f"image id {image_id}: labels outside the {len(self.category_ids)} classes")
            xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            self._found[int(image_id)] = labels, xywh.round(3), scores.round(5)

    def state(self) -> dict[str, np.ndarray]:
        """What was taken so far, in the ground truth's order of images whatever the order of the updates.

        image_ids, counts (n,): the images and how many detections each has; labels, scores (D,), boxes (D, 4) left,
        top, width, height of all of them.
        """
        ids = [image_id for image_id in self._images if image_id in self._found]
        parts = [self._found[image_id] for image_id in ids]
        return {"image_ids": np.array(ids, np.int64), "counts": np.array([len(p[0]) for p in parts], np.int64),
                "labels": np.concatenate([np.zeros(0, np.int64), *(p[0] for p in parts)]),
                "boxes": np.concatenate([np.zeros((0, 4)), *(p[1] for p in parts)]),
                "scores": np.concatenate([np.zeros(0), *(p[2] for p in parts)])}

    def merge(self, state: dict[str, np.ndarray]) -> None:
        """Take what another evaluator of the same ground truth took: afterwards this one is as if it had taken both.

        Raises ValueError for an image that both have.
        """
        ends = state["counts"].cumsum().tolist()
        for image_id, start, end in zip(state["image_ids"].tolist(), [0, *ends], ends, strict=False):
            if image_id in self._found:
                raise ValueError(f"image id {image_id} was given twice")
            self._found[image_id] = tuple(state[word][start:end] for word in ("labels", "boxes", "scores"))

    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO result rows, rounded to 1/1000 px and 1e-5 score: the rows that `compute` judges.
        Images come in the order of the ground truth."""
        found = self.state()
        images = np.repeat(found["image_ids"], found["counts"])
        columns = (found[word].tolist() for word in ("labels", "boxes", "scores"))
        return [{"image_id": image_id, "category_id": self.category_ids[label], "bbox": box, "score": score}
                for image_id, label, box, score in zip(images.tolist(), *columns, strict=True)]

    def save_json(self, path: Path | str) -> None:
        """Write `results()` as a COCO results file, whole or not at all."""
        write_bytes(path, json.dumps(self.results()).encode())

    def compute(self) -> Metrics:
        """COCO's numbers of what was taken so far."""
        taken = self.state()
        found = judge(self._objects, np.repeat(taken["image_ids"], taken["counts"]).tolist(), taken["labels"],
                      taken["boxes"], taken["scores"])
        arrays = accumulate(self._objects, found)
        labels = self._objects.counts[:, 0].tolist()
        images = [0] * len(labels)
        for (k, _), rows in self._objects.groups.items():
            images[k] += not all(row["iscrowd"] for row in rows)
        curves = _curves(found, arrays[0], labels)
        best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
        at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in ("precision", "recall", "f1")}
                   for i, c in enumerate(curves.classes)}
        undefined = {"precision": -1.0, "recall": -1.0, "f1": -1.0}
        per_class = [Numbers(**_numbers(*(x[..., [k], :] for x in arrays)), **at_best.get(k, undefined),
                             n_images=images[k], n_labels=labels[k]) for k in range(len(labels))]
        mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in undefined} if at_best else undefined
        by_id = np.argsort(self.category_ids)  # pycocotools' order of summation, for equality to the last bit
        return Metrics(**_numbers(*(x[..., by_id, :] for x in arrays)), **mean, n_images=len(self._images),
                       n_labels=sum(labels), confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves,
                       unseen=len(self._images) - len(self._found))

    def reference(self) -> dict[str, float]:
        """The twelve numbers by pycocotools itself: equal to those of `compute`, and many times slower."""
        rows = self.results()
        for number, row in enumerate(rows, 1):
            row.update(id=number, area=row["bbox"][2] * row["bbox"][3], iscrowd=0)
        with contextlib.redirect_stdout(io.StringIO()):
            sides = []
            for annotations in (self._rows, rows):  # COCO.loadRes would fail where nothing was found
                coco = COCO()
                coco.dataset = {"images": [{"id": i} for i in self._images], "annotations": annotations,
                                "categories": [{"id": c} for c in self.category_ids]}
                coco.createIndex()
                sides.append(coco)
            evaluation = COCOeval(*sides, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(NUMBERS, evaluation.stats.tolist(), strict=True))


def _truth_rows(ground_truth: dict[str, Any], images: set[int], categories: set[int]) -> list[dict[str, Any]]:
    """The annotations as COCOeval wants them, numbered anew because it takes a match with id 0 for none."""
    rows = []
    for number, row in enumerate(ground_truth["annotations"], 1):
        for word, known in (("image_id", images), ("category_id", categories)):
            if row[word] not in known:
                raise UserError(f"annotation {row.get('id')}: {word} {row[word]} is not in the ground truth; drop it")
        crowd = int(row.get("iscrowd") or 0)
        rows.append({"id": number, "image_id": int(row["image_id"]), "category_id": int(row["category_id"]),
                     "bbox": [float(v) for v in row["bbox"]], "iscrowd": crowd, "ignore": crowd,
                     "area": float(row["area"] if "area" in row else row["bbox"][2] * row["bbox"][3])})
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
    """An aligned text table: a row for all classes and, on request, one per class that has objects. -1 shows as '-'."""
    rows = [("all", metrics)]
    if per_class:
        rows += [(names[k], numbers) for k, numbers in enumerate(metrics.per_class) if numbers.n_labels]
    shown = {"P": "precision", "R": "recall"} | {name: name for name in NUMBERS}
    width = min(max(len("Class"), *(len(name) for name, _ in rows)), 24)
    head = f"{'Class':<{width}} {'Images':>7} {'Labels':>7}" + "".join(f" {title:>5}" for title in shown)
    lines = [head]
    for name, numbers in rows:
        values = [getattr(numbers, field) for field in shown.values()]
        cells = "".join(f" {'-' if value < 0 else format(value, '.3f'):>5}" for value in values)
        short = name if len(name) <= width else name[:width - 1] + "…"
        lines.append(f"{short:<{width}} {numbers.n_images:>7} {numbers.n_labels:>7}{cells}")
    absent = sum(numbers.n_labels == 0 for numbers in metrics.per_class)
    if per_class and absent:
        lines.append(f"{absent} of {len(metrics.per_class)} classes have no object in these images")
    if metrics.unseen:
        lines.append(f"{metrics.unseen} of {metrics.n_images} images were not evaluated: their objects count as missed")
    return "\n".join(lines)
