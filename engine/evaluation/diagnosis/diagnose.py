"""The diagnosis of an evaluation: every missed object by cause, false alarms by kind, TIDE's errors, calibration.

Legend: M annotations, D detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.evaluation.diagnosis.causes import BINS, CAUSE, CAUSES, IOU, KINDS, NEAR, bins_of
from engine.evaluation.diagnosis.evidence import Evidence
from engine.evaluation.diagnosis.relations import Relations, relate
from engine.evaluation.metrics.engine import HotcocoEngine, open_engine
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics
from engine.evaluation.metrics.matching import Matches, match_at
from utils.select import SelectConfig
from utils.truth import Truth


@dataclass(frozen=True, eq=False)
class View:
    """What is missed at one threshold. least: what a detection must score to count, 0 for all that were selected;
    causes (M,): the position in `CAUSES` of each object that is missed, else -1; alarms (D,) bool: false alarms."""

    key: str
    title: str
    confidence: float
    least: float
    causes: np.ndarray
    alarms: np.ndarray

    @property
    def missed(self) -> np.ndarray:
        """(M,) bool."""
        return self.causes >= 0


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """counted (M,) bool: objects that the protocol counts; sides (M,): square roots of the areas of the boxes, in
    pixels of the original image; sizes (M,): positions in `BINS`; views: at the best F1, and of all detections; limit:
    detections of an image and class that count; tide, calibration: hotcoco's, None where it is not installed or there
    is nothing to judge."""

    truth: Truth
    found: Found
    names: Sequence[str]
    evidence: Evidence
    matches: Matches
    related: Relations
    counted: np.ndarray
    sides: np.ndarray
    sizes: np.ndarray
    views: tuple[View, View]
    limit: int
    config: SelectConfig
    suppresses: bool
    tide: dict[str, Any] | None
    calibration: dict[str, Any] | None

    def table(self, view: View) -> np.ndarray:
        """(len(CAUSES), len(BINS)) missed objects by cause and size."""
        rows = view.missed
        return _counts(view.causes[rows], self.sizes[rows], (len(CAUSES), len(BINS)))

    def by_class(self, view: View) -> np.ndarray:
        """(len(CAUSES), K) missed objects by cause and class."""
        rows = view.missed
        return _counts(view.causes[rows], self.truth.label[rows], (len(CAUSES), len(self.truth.category_ids)))

    def objects(self) -> np.ndarray:
        """(len(BINS),) objects that count, by size."""
        return np.bincount(self.sizes[self.counted], minlength=len(BINS))

    def alarms(self, view: View) -> np.ndarray:
        """(len(KINDS),) false alarms by kind."""
        return np.bincount(self.related.kinds[view.alarms], minlength=len(KINDS))


def _counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def diagnose(metrics: Metrics, truth: Truth, found: Found, names: Sequence[str], evidence: Evidence,
             config: SelectConfig, suppresses: bool = True) -> Diagnosis:
    """Every missed object by cause.

    metrics: of these detections, for the protocol and the confidence of the best F1; evidence: of all candidates (the
    rows of all processes together); config: the thresholds that the detections were selected with.
    """
    engine, limit = open_engine(truth, found), metrics.protocol.max_det
    matches, = match_at(truth, found, [IOU], limit)
    related = relate(truth, found, matches)
    low, high = next(iter(metrics.protocol.areas.values()))
    counted = ~truth.crowd & ~((truth.areas < low) | (truth.areas > high))
    hits = np.full(len(truth.image), -np.inf)  # the score that an object was found with
    right = matches.state == 1
    hits[matches.objects[right]] = found.scores[right]
    sides = np.sqrt(np.maximum(truth.boxes[:, 2], 0) * np.maximum(truth.boxes[:, 3], 0))

    def view(key: str, title: str, confidence: float, least: float) -> View:
        causes = causes_of(evidence, related, found.seen[truth.image], config.conf, least)
        causes = np.where(counted & ~(hits >= least), causes, -1)
        return View(key, title, confidence, least, causes, (matches.state == 0) & (found.scores >= least))

    best = max(metrics.confidence, config.conf)
    views = (view("best_f1", "at the confidence of the best F1", best, best if best > config.conf else 0.0),
             view("all", "among all detections that AP sees", config.conf, 0.0))
    able = isinstance(engine, HotcocoEngine) and bool(counted.any()) and len(found) > 0
    return Diagnosis(truth, found, names, evidence, matches, related, counted, sides, bins_of(sides), views, limit,
                     config, suppresses, engine.tide(IOU, NEAR, limit) if able else None,
                     engine.calibration(IOU, limit) if able else None)


def causes_of(evidence: Evidence, related: Relations, seen: np.ndarray, conf: float, least: float) -> np.ndarray:
    """The cause of each of M objects if it is missed, (M,) positions in `CAUSES`.

    seen (M,) bool: whether its image was looked at. conf: the threshold of the candidates; least: what a detection must
    score to count, 0 for all that were selected.
    """
    def counts(scores: np.ndarray) -> np.ndarray:
        return (scores > 0) & (scores >= least)

    answers = (
        ("unseen", ~seen),
        ("nms", counts(evidence.suppressed)),
        ("limit", counts(np.maximum(evidence.cut, related.cut))),
        ("taken", counts(related.taken)),
        ("class", counts(related.other)),
        ("localisation", counts(related.near)),
        # Above the threshold, selected, and yet no hit: by rounding the overlap lies on the other side of the limit.
        ("localisation", evidence.right > max(conf, least)),
        ("score", evidence.right > 0),
        ("localisation", evidence.near > 0),
        ("class", evidence.other > 0),
        ("both", evidence.anything > 0))
    return np.select([mask for _, mask in answers], [CAUSE[key] for key, _ in answers], CAUSE["none"])
