"""Small evaluations with a diagnosis: candidates given by hand pass through the real selection and matching."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engine.evaluation.collector import Collector
from engine.evaluation.diagnosis.causes import CAUSES
from engine.evaluation.diagnosis.diagnose import Diagnosis, diagnose
from engine.evaluation.diagnosis.evidence import Watch
from engine.evaluation.metrics.judge import judge
from utils.distributed.group import Group
from utils.select import SelectConfig, best_scores, non_max_suppression
from utils.structures import Batch, Letterbox, PackedTargets
from utils.truth import Truth

SIZE = 160
CONFIG = SelectConfig(0.001, 0.65, 300, multi_label=True)
Boxes = Sequence[Sequence[float]]


def truth_of(boxes: Boxes, labels: Sequence[int], images: Sequence[int] = (), n: int = 1, k: int = 2) -> Truth:
    """Objects of n images from boxes (M, 4) xyxy."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    xywh = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)
    m = len(corners)
    return Truth(list(range(1, n + 1)), list(range(1, k + 1)), np.array(images or [0] * m, np.int64),
                 np.array(labels, np.int64), xywh, xywh[:, 2:].prod(1), np.zeros(m, bool))


def batch_of(ids: Sequence[int], scale: float = 1.0) -> Batch:
    side = round(SIZE * scale)
    targets = PackedTargets(torch.zeros(len(ids), 0, 4), torch.zeros(len(ids), 0, dtype=torch.int64),
                            *(torch.zeros(len(ids), 0, dtype=torch.bool) for _ in range(2)))
    box = Letterbox((SIZE, SIZE), (side, side), (scale, scale), (0, 0))
    return Batch(torch.zeros(len(ids), 3, side, side, dtype=torch.uint8), targets, list(ids), [box] * len(ids))


def diagnosed(truth: Truth, boxes: Sequence[Boxes], scores: Sequence[Boxes], config: SelectConfig = CONFIG,
              confidence: float = 0.25, suppresses: bool = True, scale: float = 1.0) -> Diagnosis:
    """The diagnosis of one batch per image: boxes xyxy in the original frame and scores of its candidates, the first
    images of the truth; `confidence` stands for that of the best F1."""
    select = non_max_suppression if suppresses else best_scores
    classes = len(truth.category_ids)
    answers = [(torch.tensor(np.array(b, np.float32)).reshape(1, -1, 4) * scale,
                torch.tensor(np.array(s, np.float32)).reshape(1, -1, classes))
               for b, s in zip(boxes, scores, strict=True)]
    watch = Watch(truth, [batch_of([truth.image_ids[k]], scale) for k in range(len(boxes))], select, lambda s: s,
                  suppresses)
    collector = Collector(truth)
    for batch, (b, s) in zip(watch, answers, strict=True):
        found = watch.select(b, s, config)
        collector.update(batch.image_ids, [d.to_original(box) for d, box in zip(found, batch.letterboxes, strict=True)])
    found = collector.found()
    metrics = replace(judge(truth, found), confidence=confidence)
    names = [f"class {k}" for k in range(classes)]
    return diagnose(metrics, truth, found, names, watch.gather(Group()), config, suppresses)


def causes(told: Diagnosis, view: int = 0) -> list[str]:
    """The cause of each object in a view, '' where it was found."""
    return [CAUSES[k].key if k >= 0 else "" for k in told.views[view].causes.tolist()]
