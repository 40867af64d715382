"""Selection: from decoded boxes and scores to `Detections`. A head names one of `SELECTORS`, or brings a function.

Legend: B images, N boxes of one image, C classes, K candidates (a box with one of its classes).
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError, nearest
from utils.structures import Detections


@dataclass(frozen=True)
class SelectConfig:
    """Thresholds of a selection.

    conf: a candidate scores above it; iou: NMS suppresses a candidate whose IoU with a better one is above it; max_det:
    most detections of an image; classes: keep these alone (None: all); agnostic: suppress across classes; multi_label:
    every class of a box is a candidate, otherwise its best class alone; per_class: most candidates of each class that
    enter, best first (None: all). Raises `UserError` for a threshold outside [0, 1], and for less than one of a class.
    """

    conf: float = 0.25
    iou: float = 0.45
    max_det: int = 300
    classes: tuple[int, ...] | None = None
    agnostic: bool = False
    multi_label: bool = False
    per_class: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("confidence", self.conf), ("IoU", self.iou)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} threshold {value} is outside [0, 1]: give a fraction such as 0.25",
                                code="bad-value")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"{self.per_class} candidates per class: give 1 or more", code="bad-value")


# boxes (B, N, 4) xyxy in input pixels, scores (B, N, C) in [0, 1] -> one `Detections` per image
Selector = Callable[[Tensor, Tensor, SelectConfig], list[Detections]]

EVALUATION = SelectConfig(0.001, 0.65, 300, multi_label=True)  # of the COCO tables of YOLOv5, YOLOv7, ASSN and ssFPN

# On a CPU the cost of one NMS call grows with K * survivors and each call costs some 25 us, so many candidates
# are cheaper class by class; a GPU prefers one call.
_PER_CLASS_FROM = 1000


def non_max_suppression(boxes: Tensor, scores: Tensor, config: SelectConfig,
                        max_candidates: int = 30000) -> list[Detections]:
    """The detections of each image of a batch, scores descending, equal scores in input order.

    boxes (B, N, 4) xyxy in any unit; scores (B, N, C), objectness already multiplied in. Only the best `max_candidates`
    of an image enter. There is no limit of time: a slow machine finds the same boxes as a fast one. Raises `ValueError`
    for shapes that disagree.
    """
    _check_shapes(boxes, scores)
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        rows, labels, values = _candidates(image_scores, config)  # (K,) each
        order = _best_first(values, len(values) if config.per_class is not None else max_candidates)
        if config.per_class is not None:
            order = order[_rank_in_class(labels[order]) < config.per_class][:max_candidates]
        rows, labels, values = rows[order], labels[order], values[order]
        corners = image_boxes[rows].float()  # (K, 4)
        groups = torch.zeros_like(labels) if config.agnostic else labels
        keep = _suppress(corners, values, groups, config.iou, config.max_det)
        found.append(Detections(corners[keep], values[keep], labels[keep]))
    return found


def best_scores(boxes: Tensor, scores: Tensor, config: SelectConfig) -> list[Detections]:
    """The `max_det` best of all boxes with all classes of each image: for models that answer with a set, of which none
    has to be suppressed (Carion et al. 2020). iou and agnostic of `config` mean nothing here.

    boxes (B, N, 4) xyxy in any unit; scores (B, N, C). Raises `ValueError` for shapes that disagree.
    """
    _check_shapes(boxes, scores)
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        rows, labels, values = _candidates(image_scores, config)
        order = _best_first(values, config.max_det)
        found.append(Detections(image_boxes[rows[order]].float(), values[order], labels[order]))
    return found


def _check_shapes(boxes: Tensor, scores: Tensor) -> None:
    if boxes.shape != (*scores.shape[:2], 4) or scores.ndim != 3:
        got = f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
        raise ValueError(f"expected boxes (B, N, 4) and scores (B, N, C), got {got}")


def _candidates(scores: Tensor, config: SelectConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C) -> box rows, classes and scores (K,) of what scores above `conf` and is of the wanted classes."""
    rows, labels = _above(scores, config)
    if config.classes is not None:
        keep = torch.isin(labels, torch.as_tensor(config.classes, dtype=torch.int64, device=labels.device))
        rows, labels = rows[keep], labels[keep]
    return rows, labels, scores[rows, labels].float()


def _above(scores: Tensor, config: SelectConfig) -> tuple[Tensor, Tensor]:
    """(N, C) -> box rows and classes (K,) of what scores above `conf`; of `per_class` only what is cheap to tell, as a
    class may still have more where scores are equal."""
    if scores.numel() == 0:
        none = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return none, none
    if config.multi_label and scores.shape[1] > 1:
        wanted = scores > config.conf
        if config.per_class is not None and config.per_class < len(scores):
            wanted &= scores >= scores.t().contiguous().topk(config.per_class).values[:, -1]  # (N, C), (C,)
        rows, labels = wanted.nonzero(as_tuple=True)
        return rows, labels
    rows = (scores.amax(1) > config.conf).nonzero()[:, 0]  # a plain maximum is far cheaper than one with indices
    return rows, scores[rows].argmax(1)


def _best_first(values: Tensor, limit: int) -> Tensor:
    """Indices of the `limit` greatest of (K,) values, descending, equal values in input order."""
    chosen = None
    if len(values) > limit:
        if limit == 0:
            return torch.zeros(0, dtype=torch.int64, device=values.device)
        lowest = values.topk(limit).values[-1]
        chosen = (values >= lowest).nonzero()[:, 0]  # a little more than `limit` where the lowest is tied
        values = values[chosen]
    order = values.argsort(descending=True, stable=True)[:limit]
    return order if chosen is None else chosen[order]


def _rank_in_class(labels: Tensor) -> Tensor:
    """(K,) classes -> how many of the same class come before each."""
    order = labels.argsort(stable=True)
    grouped = labels[order]
    first = torch.searchsorted(grouped, grouped)  # where the class of each begins
    rank = torch.arange(len(labels), device=labels.device) - first
    return torch.empty_like(rank).scatter_(0, order, rank)


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, max_det: int) -> Tensor:
    """Indices of the first `max_det` survivors of candidates (K, ...) sorted by score.

    Greedy suppression of the head of a sorted list does not depend on its tail, so where the head already yields
    `max_det` survivors the rest is never looked at: exact, and many times faster at a confidence of 0.001.
    """
    for size in (3 * max_det, 24 * max_det, len(scores)):
        keep = _suppress_all(boxes[:size], scores[:size], labels[:size], iou)
        if len(keep) >= max_det or size >= len(scores):
            break
    return keep[:max_det]


def _suppress_all(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Ascending indices of the survivors; boxes of different labels never meet."""
    nms = nms_operator()
    if boxes.device.type == "cpu" and len(boxes) > _PER_CLASS_FROM:
        groups = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
        return torch.cat([group[nms(boxes[group], scores[group], iou)] for group in groups]).sort().values
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    # Classes are moved apart by more than the extent of all boxes. In float32 an offset of 80 classes * 7680 px leaves
    # steps of 1/16 px, one percent of a 6 px object; float64 leaves none that matters.
    boxes = boxes.double()
    extent = boxes.max() - boxes.min() + 1
    return nms(boxes + (labels * extent)[:, None], scores.double(), iou).sort().values


@cache
def nms_operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's compiled NMS; whoever starts a clock calls this before.

    Its library is loaded alone where that works: `import torchvision` imports torch._dynamo, 2.0 s of CPU time instead
    of 0.002 s, as long as PyTorch itself.
    """
    with contextlib.suppress(Exception):  # whatever a library of another version or platform raises
        package = Path(find_spec("torchvision").submodule_search_locations[0])
        for library in sorted(package.glob("_C*.so")):
            torch.ops.load_library(library)
        nms = torch.ops.torchvision.nms
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        return nms
    from torchvision.ops import nms

    return nms


SELECTORS: dict[str, Selector] = {"nms": non_max_suppression, "topk": best_scores}


def find_selector(selection: str | Selector) -> Selector:
    """The function that a head's `selection` stands for. Raises `UserError` for a name that is not in `SELECTORS`."""
    if callable(selection):
        return selection
    if selection not in SELECTORS:
        hint = nearest(selection, list(SELECTORS)) or f"known: {', '.join(SELECTORS)}"
        raise UserError(f"selection {selection!r} is not known; {hint}", code="unknown-selection")
    return SELECTORS[selection]
