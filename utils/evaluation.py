"""The one evaluator: COCO's protocol, computed by pycocotools, for every dataset format.

Legend: T IoU thresholds, R recall thresholds, K classes, A area ranges, M detection limits, as in COCOeval's arrays.
"""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.confusion import ConfusionMatrix as ConfusionMatrix  # part of this module's face
from utils.errors import UserError
from utils.files import write_bytes
from utils.structures import Detections

CONFIDENCES = np.linspace(0, 1, 1000)
# Which slices of COCOeval's arrays make a number: (IoU index or all, area index, detection-limit index).
_PRECISIONS = {"AP": (slice(None), 0, 2), "AP50": (0, 0, 2), "AP75": (5, 0, 2),
               "AP_S": (slice(None), 1, 2), "AP_M": (slice(None), 2, 2), "AP_L": (slice(None), 3, 2)}
_RECALLS = {"AR1": (0, 0), "AR10": (0, 1), "AR100": (0, 2), "AR_S": (1, 2), "AR_M": (2, 2), "AR_L": (3, 2)}
NUMBERS = (*_PRECISIONS, *_RECALLS)


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
        self._truth = _coco(ground_truth["images"], _truth_rows(ground_truth, set(self.category_ids)))
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # image id -> categories, xywh, scores

    def update(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Take the detections of some images, boxes in pixels of the ORIGINAL frame. Each image is taken once.

        Raises `UserError` for boxes or scores that are not finite, ValueError for an image that is unknown or comes
        twice and for labels outside the classes.
        """
        lookup = np.array(self.category_ids, dtype=np.int64)
        for image_id, found in zip(image_ids, detections, strict=True):
            if image_id not in self._truth.imgs:
                raise ValueError(f"image id {image_id} is not in the ground truth")
            if image_id in self._found:
                raise ValueError(f"image id {image_id} was given twice")
            boxes = found.boxes.detach().cpu().double().numpy()  # (N, 4) xyxy
            scores = found.scores.detach().cpu().double().numpy()  # (N,)
            labels = found.labels.detach().cpu().numpy()  # (N,)
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise UserError(f"image id {image_id}: a detection is not finite; the model's weights have diverged")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(lookup):
                raise ValueError(f"image id {image_id}: labels outside the {len(lookup)} classes of the ground truth")
            xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
            self._found[image_id] = lookup[labels], xywh.round(3), scores.round(5)

    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO result rows, rounded to 1/1000 px and 1e-5 score: the rows that `compute` judges."""
        return [{"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                for image_id, (categories, boxes, scores) in self._found.items()
                for category, box, score in zip(categories.tolist(), boxes.tolist(), scores.tolist(), strict=True)]

    def save_json(self, path: Path | str) -> None:
        """Write `results()` as a COCO results file, whole or not at all."""
        write_bytes(path, json.dumps(self.results()).encode())

    def compute(self) -> Metrics:
        """COCO's numbers of what was taken so far."""
        rows = self.results()
        for number, row in enumerate(rows, 1):
            row.update(id=number, area=row["bbox"][2] * row["bbox"][3], iscrowd=0)
        evaluation = COCOeval(self._truth, _coco(self._truth.dataset["images"], rows), "bbox")
        evaluation.params.catIds = sorted(self.category_ids)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
        columns = [evaluation.params.catIds.index(c) for c in self.category_ids]  # class -> its K: K is sorted by id
        labels, images = self._counts()
        curves = _curves(evaluation, precision, columns, labels)
        best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
        at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in ("precision", "recall", "f1")}
                   for i, c in enumerate(curves.classes)}
        undefined = {"precision": -1.0, "recall": -1.0, "f1": -1.0}
        per_class = [Numbers(**_numbers(precision[:, :, [column]], recall[:, [column]]), **at_best.get(k, undefined),
                             n_images=images[k], n_labels=labels[k]) for k, column in enumerate(columns)]
        mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in undefined} if at_best else undefined
        return Metrics(**_numbers(precision, recall), **mean, n_images=len(self._truth.imgs), n_labels=sum(labels),
                       confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves,
                       unseen=len(self._truth.imgs) - len(self._found))

    def _counts(self) -> tuple[list[int], list[int]]:
        """Per class: objects, and images that hold one; crowds left out."""
        images = defaultdict(list)
        for row in self._truth.dataset["annotations"]:
            if not row["iscrowd"]:
                images[row["category_id"]].append(row["image_id"])
        return [len(images[c]) for c in self.category_ids], [len(set(images[c])) for c in self.category_ids]


def _coco(images: list[dict], annotations: list[dict]) -> COCO:
    """pycocotools' object of complete rows. Its own `loadRes` fails without rows and copies what is there."""
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": []}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _truth_rows(ground_truth: dict[str, Any], categories: set[int]) -> list[dict[str, Any]]:
    """The annotations as COCOeval wants them, numbered anew because it takes a match with id 0 for none."""
    images = {image["id"] for image in ground_truth["images"]}
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


def _numbers(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve numbers of COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M): means of what is defined."""
    def mean(values: np.ndarray) -> float:
        defined = values[values > -1]
        return float(defined.mean()) if defined.size else -1.0

    numbers = {name: mean(precision[t, ..., a, m]) for name, (t, a, m) in _PRECISIONS.items()}
    return numbers | {name: mean(recall[..., a, m]) for name, (a, m) in _RECALLS.items()}


def _curves(evaluation: COCOeval, precision: np.ndarray, columns: list[int], labels: list[int]) -> Curves:
    """Curves at IoU 0.5 from COCOeval's matches: area range `all`, crowd matches left out."""
    classes = [k for k, count in enumerate(labels) if count]
    n_images, n_areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    rows = []
    for k in classes:
        start = columns[k] * n_areas * n_images
        judged = [e for e in evaluation.evalImgs[start:start + n_images] if e is not None]
        counted = ~np.concatenate([e["dtIgnore"][0] for e in judged]).astype(bool)
        hits = np.concatenate([e["dtMatches"][0] for e in judged])[counted] > 0
        scores = np.concatenate([e["dtScores"] for e in judged])[counted]
        rows.append(confidence_curves(hits, scores, labels[k]))
    stacked = np.array(rows).reshape(len(rows), 3, len(CONFIDENCES))
    return Curves(classes, evaluation.params.recThrs, precision[0][:, [columns[k] for k in classes], 0, 2].T,
                  CONFIDENCES, stacked[:, 0], stacked[:, 1], stacked[:, 2])


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
