"""The detections of several models on one split, merged image by image in the original frames."""

from collections.abc import Sequence

import numpy as np
import torch

from data import Index
from engine.evaluation.confusion import ConfusionMatrix
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import COCO, Protocol
from engine.inference.merging.models import merge_models
from utils.structures import Detections


def ensemble(founds: Sequence[Found], how: str, limit: int | None = None) -> Found:
    """Detections of one truth merged by a method of `merging.models`, rounded as those of one model.

    An image counts as seen where all models looked at it. limit: most detections of an image, None: all.
    """
    seen = np.logical_and.reduce([found.seen for found in founds])
    parts = []
    for place in np.flatnonzero(seen).tolist():
        columns = [(np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1), scores, labels)
                   for labels, boxes, scores in (found.of(place) for found in founds)]
        merged = merge_models(columns, how)
        boxes = np.concatenate((merged.boxes[:, :2], merged.boxes[:, 2:] - merged.boxes[:, :2]), 1)
        parts.append((np.full(len(boxes), place), merged.labels, boxes.round(3), merged.scores.round(5)))
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0)
    return Found(seen, *(np.concatenate([column[:limit] for column in columns])
                         for columns in zip(empty, *parts, strict=True)))


def evaluate_ensemble(results: Sequence[Evaluation], index: Index, how: str, limit: int | None = None,
                      protocol: Protocol = COCO) -> Evaluation:
    """Judge several models as one. results: of each, on all images of `index` (`Evaluation.found` of the main
    process)."""
    found = ensemble([result.found for result in results], how, limit)
    confusion = ConfusionMatrix(len(index.names))
    places = {record: k for k, record in enumerate(index.truth.record_ids)}
    for record in index.records:
        labels, boxes, scores = found.of(places[record.image_id])
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        detections = Detections(*map(torch.from_numpy, (corners.astype(np.float32), scores, labels)))
        confusion.update(detections, *map(torch.from_numpy, (record.boxes, record.labels, record.ignore)))
    speed = {stage: sum(result.speed.get(stage, 0.0) for result in results) for stage in results[0].speed}
    return Evaluation(judge(index.truth, found, index.names, protocol), index.truth, found, confusion, {}, speed)
