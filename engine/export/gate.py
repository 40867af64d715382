"""The comparison of an exported file with PyTorch, which decides whether the file is kept.

Legend: B images in a batch, H, W pixels of the input frame, N candidate boxes of one image, C classes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.export.pictures import Input
from engine.inference.runtimes.base import Runtime
from utils.boxes import box_iou
from utils.errors import UserError, printable
from utils.reporting.draw import draw_detections
from utils.select import SelectConfig
from utils.structures import Detections

MOST_RANKS = 300  # best scores of a set that are compared


@dataclass(frozen=True)
class Tolerance:
    """What an exported file may differ by: boxes in input pixels, scores, the fraction of detections (rounded up: a
    difference in the last digit can reverse a decision of NMS and those that follow), and AP on labelled images. iou:
    from which two boxes of a class are the same."""

    boxes: float
    scores: float
    fraction: float
    ap: float
    iou: float = 0.9


# By precision. Noise is far from the training data and amplifies rounding: pictures decide, noise only guards against
# gross errors. 8 bits change every number, so there detections are compared loosely, and AP decides.
PICTURES = {"float32": Tolerance(0.1, 1e-3, 0.02, 0.002), "float16": Tolerance(4.0, 0.05, 0.1, 0.01),
            "int8": Tolerance(math.inf, 1.0, 0.3, 0.03, iou=0.5)}
NOISE = {"float32": Tolerance(1.0, 1e-2, 1.0, 0), "float16": Tolerance(1e4, 1.0, 1.0, 0),
         "int8": Tolerance(math.inf, 1.0, 1.0, 0, iou=0.5)}


@dataclass(frozen=True)
class Comparison:
    """Differences on images of one kind: the greatest of boxes (px; candidates above the confidence only) and of
    scores, the number of detections and how many of them differ. Of sets, and of files that select detections
    themselves: of boxes that are found by both, and of scores of equal rank. name: of the picture, or of all."""

    kind: str
    shape: tuple[int, int, int]
    boxes: float
    scores: float
    found: int
    differ: int
    name: str = ""

    def __str__(self) -> str:
        what = f"{printable(self.name) or self.kind} {self.shape[0]}x3x{self.shape[1]}x{self.shape[2]}"
        return (f"{what:<24} boxes within {self.boxes:.2g} px, scores within {self.scores:.2g}, "
                f"{self.found - self.differ} of {self.found} detections the same")

    def excess(self, tolerance: Tolerance) -> float:
        """How far beyond a tolerance, in its own measure; 0 within it."""
        few = self.differ <= math.ceil(tolerance.fraction * self.found)
        if self.boxes <= tolerance.boxes and self.scores <= tolerance.scores and few:
            return 0.0
        parts = (self.boxes / tolerance.boxes, self.scores / tolerance.scores, self.differ / max(self.found, 1))
        return max(parts) if not any(map(math.isnan, parts)) else math.inf


def compare_all(inputs: Iterable[Input], reference: Runtime, exported: Runtime, path: Path) -> list[Comparison]:
    """Compare on every input; of real pictures all make one comparison.

    Raises `UserError` where one is beyond the tolerance of the file's precision; the worst picture is then drawn beside
    `path`.
    """
    found, real, worst, most = [], [], None, -1.0
    for given in inputs:
        comparison = compare(given, reference, exported)
        (real if given.name else found).append(comparison)
        excess = comparison.excess(PICTURES[exported.precision])
        if given.kind == "pictures" and max(excess, comparison.differ / max(comparison.found, 1)) > most:
            worst, most = given, max(excess, comparison.differ / max(comparison.found, 1))
    found += [merged(real)] if real else []
    for comparison in found:
        tolerance = (NOISE if comparison.kind == "random" else PICTURES)[exported.precision]
        if comparison.excess(tolerance):
            raise UserError(
                f"{path}: not written, the exported model differs from PyTorch: {comparison} (allowed: "
                f"{tolerance.boxes} px, {tolerance.scores}, {tolerance.fraction:.0%} of the detections)"
                + _told_worst(worst, reference, exported, path), "export-differs")
    return found


def _told_worst(worst: Input | None, reference: Runtime, exported: Runtime, path: Path) -> str:
    """Draw the worst picture; the end of the sentence that says where."""
    drawn = worst and draw_worst(worst, reference, exported, path)
    if not drawn:
        return ""
    name = f", {printable(worst.name)}," if worst.name else ""
    return f"; the worst picture{name} is drawn in {drawn}, PyTorch left"


def merged(found: Sequence[Comparison]) -> Comparison:
    """One comparison of several pictures, with the shape of the first."""
    greatest = torch.tensor([(c.boxes, c.scores) for c in found]).amax(0).tolist()  # NaN stays NaN
    return Comparison("pictures", found[0].shape, *greatest, sum(c.found for c in found), sum(c.differ for c in found),
                      f"{len(found)} picture{'s' * (len(found) > 1)}")


def compare(given: Input, reference: Runtime, exported: Runtime) -> Comparison:
    """Compare the answers to one input. Raises `UserError` where the exported file fails, or answers in another form.

    Scores that differ by rounding alone, as in a barely trained model, must have the same order in both, so they are
    rounded; a file that selects detections itself has done so before.
    """
    try:
        (boxes, scores), (other_boxes, other_scores) = reference.predict(given.images), exported.predict(given.images)
    except UserError as error:
        raise UserError(f"not written, the exported model does not run: {error}", error.code) from None
    for values, whose in ((boxes, "model"), (scores, "model"), (other_boxes, "file"), (other_scores, "file")):
        if not values.isfinite().all():
            raise UserError(f"{exported.path}: not written, on {given.name or given.kind} the {whose} answers with "
                            "values that are not finite", "export-differs")
    coarse, other_coarse, thresholds = scores, other_scores, exported.selection
    if thresholds is None:
        decimals = 4 if exported.precision == "float32" else 2
        coarse, other_coarse = scores.round(decimals=decimals), other_scores.round(decimals=decimals)
        thresholds = SelectConfig(_separating_confidence(coarse))
    found = reference.select(boxes, coarse, thresholds)
    other = exported.select(other_boxes, other_coarse, thresholds)
    iou = PICTURES[exported.precision].iou
    shape = (len(given.images), *given.images.shape[2:])
    if exported.finds_sets:
        differences = _of_sets(found, other, iou, max(shape[1:]))
        if exported.selection:
            scores, other_scores = _padded(found), _padded(other)
        return Comparison(given.kind, shape, differences[0], _of_ranks(scores, other_scores), *differences[1:],
                          given.name)
    if boxes.shape != other_boxes.shape or scores.shape != other_scores.shape:
        raise UserError(f"{exported.path}: not written, for images {list(given.images.shape)} it gives boxes "
                        f"{tuple(other_boxes.shape)}, PyTorch {tuple(boxes.shape)}", "export-differs")
    total = max(sum(map(len, found)), sum(map(len, other)))
    same = sum(int(_nearest(a, b, iou).isfinite().sum()) for a, b in zip(found, other, strict=True))
    candidates = coarse.amax(-1) > thresholds.conf  # (B, N); boxes of lower scores do not matter
    difference = (boxes - other_boxes).abs().amax(-1)
    difference = difference[candidates] if candidates.any() else difference
    return Comparison(given.kind, shape, difference.max().item(), (scores - other_scores).abs().max().item(), total,
                      total - same, given.name)


def _of_sets(found: list[Detections], other: list[Detections], iou: float, side: int) -> tuple[float, int, int]:
    """Of detections in any order: the greatest difference of boxes that both have, px, their number, and how many
    differ. Where two are nearly tied rounding makes them change places, and of two neighbours the other one stay."""
    pairs = torch.cat([_nearest(a, b, iou) for a, b in zip(found, other, strict=True)])
    back = torch.cat([_nearest(b, a, iou) for a, b in zip(found, other, strict=True)])
    total = max(len(pairs), len(back))
    same = min(int(pairs.isfinite().sum()), int(back.isfinite().sum()))
    if not same:  # nothing to measure
        return (float(side) if total else 0.0), total, total
    return pairs[pairs.isfinite()].max().item(), total, total - same


def _of_ranks(scores: Tensor, other: Tensor) -> float:
    """The greatest difference of scores (B, ...) of equal rank."""
    ranks = min(scores[0].numel(), other[0].numel(), MOST_RANKS)
    ranked = [s.flatten(1).topk(ranks, 1).values for s in (scores, other)]
    return (ranked[0] - ranked[1]).abs().max().item() if ranks else 0.0


def _padded(found: list[Detections]) -> Tensor:
    """(B, `MOST_RANKS`) scores of detections, the best first, then zeros."""
    rows = torch.zeros(len(found), MOST_RANKS)
    for row, detections in zip(rows, found, strict=True):
        row[:len(detections)] = detections.scores[:MOST_RANKS]
    return rows


def _nearest(a: Detections, b: Detections, iou: float) -> Tensor:
    """(K,) of each detection of `a` the greatest difference of a side, px, from the nearest of the same class with at
    least this IoU in `b`; infinite where there is none."""
    if not len(a) or not len(b):
        return a.boxes.new_full((len(a),), math.inf)
    same = (box_iou(a.boxes, b.boxes) > iou) & (a.labels[:, None] == b.labels)
    return (a.boxes[:, None] - b.boxes).abs().amax(-1).masked_fill(~same, math.inf).amin(1)


def _separating_confidence(scores: Tensor) -> float:
    """0.25, or if no score is above it the middle of the widest gap in the lower half of the 100 best scores."""
    best = scores.amax(-1).flatten().sort(descending=True).values[:100]
    if best[0] > 0.25 or len(best) < 2:
        return 0.25
    gaps = best[:-1] - best[1:]
    at = gaps[len(gaps) // 2:].argmax().item() + len(gaps) // 2
    return max((best[at] + best[at + 1]).item() / 2 - 2e-5, 0.0)  # below scores that rounding made equal


def draw_worst(given: Input, reference: Runtime, exported: Runtime, path: Path) -> Path | None:
    """Write the detections of both on the first picture of an input, PyTorch left, beside `path`; None where that
    fails, since it only illustrates an error."""
    picture = np.ascontiguousarray((255 * given.images[0]).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
    sides = []
    for runtime in (reference, exported):
        found, = runtime.select(*runtime.predict(given.images[:1]), replace(
            exported.selection or SelectConfig(), conf=max((exported.selection or SelectConfig()).conf, 0.25)))
        kept = found.boxes.isfinite().all(1)
        sides.append(draw_detections(picture, Detections(found.boxes[kept], found.scores[kept], found.labels[kept]),
                                     runtime.names))
    target = path.with_name(f"{path.name.replace('.', '_')}_worst.jpg")
    try:
        return target if cv2.imwrite(str(target), np.concatenate(sides, 1)) else None
    except (cv2.error, OSError):
        return None
