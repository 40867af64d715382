"""What a model's candidates, before any selection, say about each object: kept per object while an evaluation runs.

A candidate box belongs to the object that it overlaps most; what is said of an object is said by its own boxes alone,
so that in a crowd a neighbour's boxes do not count for it. Legend: N candidates of an image, C classes, G objects of
an image, D detections, M annotations of the truth.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.diagnosis.causes import FLOOR, IOU, NEAR
from utils.boxes import box_iou
from utils.distributed.group import Group
from utils.select import SelectConfig, Selector
from utils.structures import Batch, Detections, Letterbox
from utils.truth import Truth

MOST_PAIRS = 100_000  # overlaps that are computed at once: more would not fit into the cache of a core


@dataclass
class Evidence:
    """What the candidates say of each annotation, (M,) each; 0 where there is none.

    right: best score of a box of its class with IoU >= 0.5; suppressed, cut: of those above the threshold, and above
    the best one that was kept, the best that suppression took, and the best beyond the number kept; near: best score of
    a box of its class with 0.1 <= IoU < 0.5; best_iou: best IoU of a box of its class; other: best score of another
    class for a box with IoU >= 0.5, and other_label that class (-1: none); anything: best score, for any class, of a
    box with IoU >= 0.1; scale: pixels of the input frame per pixel of the original image.
    """

    right: np.ndarray
    suppressed: np.ndarray
    cut: np.ndarray
    near: np.ndarray
    best_iou: np.ndarray
    other: np.ndarray
    other_label: np.ndarray
    anything: np.ndarray
    scale: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Evidence":
        """Of so many annotations, nothing yet."""
        made = cls(*(np.zeros(count) for _ in fields(cls)))
        made.other_label = np.full(count, -1, np.int64)
        return made

    def put(self, rows: np.ndarray, part: "Evidence") -> None:
        """Set what is said of some annotations, (K,) positions."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)

    def __getitem__(self, rows: np.ndarray) -> "Evidence":
        return Evidence(*(getattr(self, field.name)[rows] for field in fields(self)))


def owners(boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4) and (G, 4) xyxy, G > 0 -> the overlap (N,) of each box with the object that it overlaps most, and the
    position (N,) of that object, of equal ones the first."""
    left, top, right, bottom = objects.double().unbind(1)
    own = (right - left) * (bottom - top)
    parts = []
    for part in boxes.double().split(max(MOST_PAIRS // len(objects), 1)):
        x1, y1, x2, y2 = part.t()[:, :, None]  # (n, 1) each
        common = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
        common *= torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0)
        union = ((x2 - x1) * (y2 - y1) + own).sub_(common)
        parts.append(common.div_(union).nan_to_num_(0, 0, 0).max(1))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


@dataclass(frozen=True)
class Candidates:
    """What a model answers for one image: boxes (N, 4) xyxy in pixels of the input frame, scores (N, C) by the classes
    of the dataset, and the letterbox of the frame. suppresses: whether its selection is a suppression."""

    boxes: Tensor
    scores: Tensor
    letterbox: Letterbox
    suppresses: bool = True

    def __getitem__(self, rows: Tensor) -> "Candidates":
        return Candidates(self.boxes[rows], self.scores[rows], self.letterbox, self.suppresses)

    @property
    def original(self) -> Tensor:
        """(N, 4) the boxes in pixels of the original image, cut at its border as detections are."""
        return self.letterbox.inverse(self.boxes, clip=True)


def observe(raw: Candidates, found: Detections, objects: Tensor, labels: Tensor, config: SelectConfig) -> Evidence:
    """What the candidates of one image say of its objects.

    found: what was selected from them with `config`, in the input frame. objects (G, 4) float64 xyxy pixels of the
    original image, G > 0, labels (G,), without crowds.
    """
    floor = min(FLOOR, config.conf)
    objects, labels = objects.to(raw.boxes.device), labels.to(raw.boxes.device)
    raw = raw[(raw.scores.amax(1) > floor).nonzero()[:, 0]] if raw.scores.numel() else raw[:0]
    overlap, owner = owners(raw.original, objects)
    near = (overlap >= NEAR).nonzero()[:, 0]
    raw, overlap, owner = raw[near], overlap[near], owner[near]
    own = labels[owner][:, None]
    right = raw.scores.gather(1, own)[:, 0].float()
    best, label = raw.scores.scatter(1, own, -1.0).max(1)  # of the other classes
    best = best.float()
    if not config.multi_label:  # only the best class of a box is ever selected
        right = right * (right >= best)
    said = Evidence.empty(len(objects))
    columns = [t.cpu().numpy() for t in (overlap, owner, right, best, label)]
    _summarise(said, *columns, floor)
    good = (overlap >= IOU) & (right > config.conf)
    if good.any():
        _follow(said, raw[good], right[good], owner[good], found, (objects, labels, config))
    said.scale[:] = (raw.letterbox.scale[0] * raw.letterbox.scale[1]) ** 0.5
    return said


def _summarise(said: Evidence, overlap: np.ndarray, owner: np.ndarray, right: np.ndarray, best: np.ndarray,
               label: np.ndarray, floor: float) -> None:
    """The best scores and overlaps; columns (N,) of boxes with their owners."""
    good, of_class, of_other = overlap >= IOU, right > floor, best > floor
    for target, rows, values in (
            (said.right, good & of_class, right), (said.near, ~good & of_class, right),
            (said.best_iou, of_class, overlap), (said.other, good & of_other, best),
            (said.anything, of_class | of_other, np.maximum(right, best))):
        np.maximum.at(target, owner[rows], values[rows])
    rows = np.flatnonzero(good & of_other)
    rows = rows[np.argsort(best[rows], kind="stable")]
    said.other_label[owner[rows]] = label[rows]  # the last one stays: the best


def _follow(said: Evidence, raw: Candidates, right: Tensor, owner: Tensor, found: Detections,
            context: tuple[Tensor, Tensor, SelectConfig]) -> None:
    """What became of good boxes that score above the best one kept of their object: suppressed, or cut."""
    objects, labels, config = context
    found = Detections(*(t.to(right.device) for t in (found.boxes, found.scores, found.labels)))
    kept = torch.zeros(len(objects), dtype=right.dtype, device=right.device)
    if len(found):
        overlap, of = owners(raw.letterbox.inverse(found.boxes, clip=True), objects)
        hits = (overlap >= IOU) & (found.labels == labels[of])
        kept.scatter_reduce_(0, of[hits], found.scores[hits].to(kept.dtype), "amax")
    rows = (right > kept[owner]).nonzero()[:, 0]
    scores, boxes, of = right[rows], raw.boxes[rows].float(), owner[rows]
    alike = found.labels == labels[of][:, None]  # (Q, D)
    gone = (alike | config.agnostic) & (found.scores >= scores[:, None])
    gone = (gone & (box_iou(boxes, found.boxes) > config.iou)).any(1)  # in the frame of the suppression
    # Where the list was not full, nothing was cut: a box that is not in it was suppressed, whatever rounding says.
    gone = (gone | (len(found) < config.max_det and config.per_class is None)) & raw.suppresses
    for target, chosen in ((said.suppressed, gone), (said.cut, ~gone)):
        np.maximum.at(target, of[chosen].cpu().numpy(), scores[chosen].double().cpu().numpy())


class Watch:
    """Stands between an evaluation and its loader and selection, and observes every image.

    Give `watch` as the loader and `watch.select` as the selection. in_classes: scores (B, N, C) by the model's classes
    -> by the dataset's; suppresses: whether the selection is a suppression. config: of the last selection; seconds:
    what observing took; in_load: the part of it that the evaluation's clock takes for loading.
    """

    def __init__(self, truth: Truth, loader, select: Selector, in_classes: Callable[[Tensor], Tensor],
                 suppresses: bool = True) -> None:
        self.evidence, self.seconds, self.in_load = Evidence.empty(len(truth.image)), 0.0, 0.0
        self._loader, self._select, self._in_classes, self._suppresses = loader, select, in_classes, suppresses
        self._place = {record: k for k, record in enumerate(truth.record_ids)}
        rows = np.flatnonzero(~truth.crowd)
        rows = rows[np.argsort(truth.image[rows], kind="stable")]
        self._rows, self._edges = rows, np.searchsorted(truth.image[rows], np.arange(len(truth.image_ids) + 1))
        low = truth.boxes[:, :2]
        self._boxes = torch.from_numpy(np.concatenate((low, low + truth.boxes[:, 2:]), 1))
        self._labels = torch.from_numpy(truth.label)
        self.config: SelectConfig | None = None
        self._done: list[np.ndarray] = []
        self._answer: tuple[Tensor, Tensor, list[Detections], SelectConfig] | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self.in_load = self.seconds
            yield batch
            start = time.perf_counter()
            self._observe(batch)
            self.seconds += time.perf_counter() - start

    def select(self, boxes: Tensor, scores: Tensor, config: SelectConfig) -> list[Detections]:
        """As the selection it stands for; remembers what it was given until the next batch."""
        self.config, found = config, self._select(boxes, scores, config)
        self._answer = boxes, scores, found, config
        return found

    def gather(self, group: Group) -> Evidence | None:
        """The evidence, and the seconds, of all processes on the main one; None on the others."""
        rows = np.concatenate([np.zeros(0, np.int64), *self._done])
        parts = group.gather((rows, self.evidence[rows], self.seconds, self.in_load))
        if parts is None:
            return None
        for rows, part, _, _ in parts[1:]:
            self.evidence.put(rows, part)
        self.seconds, self.in_load = (sum(part[k] for part in parts) for k in (2, 3))
        return self.evidence

    def _observe(self, batch: Batch) -> None:
        if self._answer is None:
            raise ValueError("Watch: the evaluation selected nothing; give it `watch.select`")
        (boxes, scores, found, config), self._answer = self._answer, None
        scores = self._in_classes(scores)
        for k, image_id in enumerate(batch.image_ids):
            place = self._place[image_id]
            rows = self._rows[self._edges[place]:self._edges[place + 1]]
            if len(rows):
                self._done.append(rows)
                raw = Candidates(boxes[k], scores[k], batch.letterboxes[k], self._suppresses)
                self.evidence.put(rows, observe(raw, found[k], self._boxes[rows], self._labels[rows], config))
