"""What judging gives: numbers over all classes and of each, by whatever protocol."""

from dataclasses import dataclass, field

import numpy as np

from engine.evaluation.metrics.curves import CONFIDENCES, Curves
from engine.evaluation.metrics.protocol import Protocol
from engine.evaluation.metrics.voc import VocMetrics

UNDEFINED = {"precision": -1.0, "recall": -1.0, "f1": -1.0}


@dataclass
class Scores:
    """The numbers of all classes, or of one. values: those of the protocol by name, in [0, 1], or -1 where there is no
    object. precision, recall, f1: at IoU 0.5 (or the protocol's least) and at the confidence of the highest mean F1
    over classes, as YOLO prints them. n_images, n_labels: images and objects of the truth, without crowds."""

    values: dict[str, float]
    precision: float
    recall: float
    f1: float
    n_images: int
    n_labels: int

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclass
class AlternativeMetrics:
    """The numbers by another rule, a row of the table; why: what the rule is and why it is shown."""

    title: str
    why: str
    values: dict[str, float]


@dataclass(frozen=True, eq=False)
class SizeTable:
    """AP over all IoUs and objects by class (K) and area range (A), those after "all". ap (K, A), objects (K, A); mean
    (A,): AP over classes; -1 where there is no object."""

    labels: tuple[str, ...]
    ap: np.ndarray
    objects: np.ndarray
    mean: np.ndarray


@dataclass
class Metrics(Scores):
    """The numbers over all classes, per class, the curves, and the confidence of the highest mean F1.

    unseen: images of the truth that nobody looked at; their objects count as missed. alternatives: the numbers by other
    rules, where the protocol's own are of little use on this truth. sizes: of protocols with sizes. voc: what else the
    table of VOC's rules shows.
    """

    protocol: Protocol
    confidence: float
    per_class: list[Scores]
    curves: Curves
    unseen: int
    alternatives: list[AlternativeMetrics] = field(default_factory=list)
    sizes: SizeTable | None = None
    voc: VocMetrics | None = None


def metrics_of(protocol: Protocol, values: dict[str, float], by_class: list[dict[str, float]], curves: Curves,
               counts: tuple[list[int], list[int]], seen: np.ndarray) -> Metrics:
    """`Metrics` from the numbers of a protocol over all classes and by class, and from its curves at one IoU.

    counts: images and objects of each class; seen (n,): images that were looked at.
    """
    images, labels = counts
    best = int(curves.f1.mean(0).argmax()) if curves.classes else 0
    at_best = {c: {w: float(getattr(curves, w)[i, best]) for w in UNDEFINED} for i, c in enumerate(curves.classes)}
    per_class = [Scores(own, **at_best.get(k, UNDEFINED), n_images=images[k], n_labels=labels[k])
                 for k, own in enumerate(by_class)]
    mean = {w: float(np.mean([v[w] for v in at_best.values()])) for w in UNDEFINED} if at_best else UNDEFINED
    return Metrics(values, **mean, n_images=len(seen), n_labels=sum(labels), protocol=protocol,
                   confidence=float(CONFIDENCES[best]), per_class=per_class, curves=curves, unseen=int((~seen).sum()))
