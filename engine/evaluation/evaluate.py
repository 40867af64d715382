"""One evaluation: a model's detections on a split, judged by COCO's protocol, and by another on request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import length_hint

import numpy as np
import torch
from torch import Tensor

from data import Index
from engine.evaluation.collector import Collector
from engine.evaluation.comparison.table import Facts
from engine.evaluation.confusion import ConfusionMatrix
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics, judge
from engine.evaluation.metrics.protocol import COCO, Protocol
from utils.distributed.group import Group
from utils.reporting.progress import Progress
from utils.reporting.stage_clock import StageClock, per_image
from utils.select import EVALUATION, SelectConfig, Selector
from utils.structures import Batch, Detections, PackedTargets
from utils.truth import Truth

PLOT_BATCHES = 3
ALONE = Group()

# images (B, 3, H, W) and their targets -> boxes (B, N, 4), scores (B, N, C), losses by name (empty outside training)
Predict = Callable[[Tensor, PackedTargets], tuple[Tensor, Tensor, dict[str, Tensor]]]


@dataclass
class Evaluation:
    """The result of `evaluate`: metrics, mean losses per image (empty outside training), ms per image by stage.

    All processes hold the same metrics, confusion, losses and speed; `found` of the main process holds the detections
    of all images, that of the others only their own. plot_batches: the first batches with their detections. metrics:
    COCO's; own: by another protocol, where one was asked for. comparison: a table of other ways to look at the same
    images beside this one; damaged: paths of images that could not be decoded. index: the images and their classes,
    where val.py needs them on; facts: of the model.
    """

    metrics: Metrics
    truth: Truth
    found: Found
    confusion: ConfusionMatrix
    losses: dict[str, float]
    speed: dict[str, float]
    plot_batches: list[tuple[Batch, list[Detections]]] = field(default_factory=list)
    max_det: int | None = None
    own: Metrics | None = None
    comparison: str = ""
    damaged: list[str] = field(default_factory=list)
    index: Index | None = None
    facts: Facts = Facts()

    @property
    def primary(self) -> Metrics:
        """The numbers by the protocol that was asked for."""
        return self.own or self.metrics

    def judge_by(self, protocol: Protocol, names: Sequence[str], group: Group = ALONE) -> None:
        """Add the numbers by another protocol, or COCO's with its row of more detections; all of `group` call this."""
        if protocol == COCO:
            return
        metrics = group.broadcast(judge(self.truth, self.found, names, protocol) if group.is_main else None)
        if protocol.name == COCO.name:
            self.metrics = metrics
        else:
            self.own = metrics


def without_losses(predict: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]) -> Predict:
    """`predict` of images and their content (`PackedTargets.content`) in the form that `evaluate` takes."""
    return lambda images, targets: (*predict(images, targets.content), {})


@torch.no_grad()
def evaluate(predict: Predict, select: Selector, loader, index: Index | Collector,
             thresholds: SelectConfig = EVALUATION, *, device: torch.device, group: Group = ALONE) -> Evaluation:
    """Evaluate a model on the images of a loader against `index` by COCO's protocol.

    index: what is judged against; or a `Collector` of its truth, which may hold detections of an earlier run on images
    that the loader leaves out. select, thresholds: how detections are selected, usually `Detector.select` and
    `Detector.thresholds`. group: the processes that call this together, each with its share of the batches (rank and
    world of `LoaderConfig`) and the same weights; all get the result of the whole split.
    """
    collector = index if isinstance(index, Collector) else Collector(index.truth, index.names)
    confusion = ConfusionMatrix(len(collector.names))
    losses: dict[str, list[Tensor]] = {}
    plot_batches, images_seen, clock = [], 0, StageClock(device, ("load", "inference", "nms"))
    for batch in Progress(loader, "val", length_hint(loader), unit="batch", shown=group.is_main):
        on_device = batch.to(device)
        clock.lap("load")
        boxes, scores, batch_losses = predict(on_device.images, on_device.targets)
        clock.lap("inference")
        found = [d.cpu() for d in select(boxes, scores, thresholds)]
        clock.lap("nms")
        for name, value in batch_losses.items():
            losses.setdefault(name, []).append(value)
        images_seen += len(batch)
        collector.update(batch.image_ids, [d.to_original(box) for d, box in zip(found, batch.letterboxes, strict=True)])
        for detections, truth in zip(found, batch.targets.unpack(), strict=True):
            confusion.update(detections, truth.boxes, truth.labels, truth.ignore)
        if group.is_main and len(plot_batches) < PLOT_BATCHES:
            plot_batches.append((batch, found))
        clock.start()
    own = PartialResult(collector.found(), confusion.matrix, {k: torch.stack(v).tolist() for k, v in losses.items()},
                        clock.seconds, images_seen)
    parts = group.gather(own)
    metrics, confusion.matrix, means, speed = group.broadcast(merge(parts, collector) if parts else None)
    return Evaluation(metrics, collector.truth, collector.found(), confusion, means, speed, plot_batches,
                      thresholds.max_det)


@dataclass
class PartialResult:
    """The share of one process. losses: of each batch, in order."""

    found: Found
    matrix: np.ndarray
    losses: dict[str, list[float]]
    seconds: dict[str, float]
    images: int


def merge(parts: list[PartialResult],
          collector: Collector) -> tuple[Metrics, np.ndarray, dict[str, float], dict[str, float]]:
    """Metrics, confusion, mean losses and milliseconds per image of all processes, bit-identical to those of one.

    parts: by rank; process k evaluated every `len(parts)`-th batch from batch k on, as `eval_loader` distributes them.
    The first is already in `collector`. Runs on the main process alone, since it takes seconds on a large split.
    """
    for part in parts[1:]:
        collector.merge(part.found)
    images = max(sum(part.images for part in parts), 1)
    terms = next((part.losses for part in parts if part.losses), {})
    in_order = {name: [value for round_ in zip_longest(*(part.losses.get(name, ()) for part in parts))
                       for value in round_ if value is not None] for name in terms}
    return (judge(collector.truth, collector.found(), collector.names), sum(part.matrix for part in parts),
            {name: sum(values) / images for name, values in in_order.items()},
            per_image({stage: sum(part.seconds[stage] for part in parts) for stage in parts[0].seconds}, images))
