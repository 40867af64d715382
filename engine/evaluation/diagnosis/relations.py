"""How selected detections and objects lie to each other, beyond hit or not.

Legend: D detections, M annotations, G objects of an image.
"""

from dataclasses import dataclass

import numpy as np
import torch

from engine.evaluation.diagnosis.causes import IOU, KIND, NEAR
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Matches
from utils.boxes import box_iou
from utils.truth import Truth


@dataclass(frozen=True, eq=False)
class Relations:
    """kinds (D,): position in `KINDS` of a detection, if it is a false alarm. Of each annotation (M,), 0 for none:

    cut: best score of a detection of its class with IoU >= 0.5 that lies beyond the protocol's limit; taken: the same
    of one that is a hit on another object; other: the same of one of another class that is no hit; near: the same of
    its class with 0.1 <= IoU < 0.5, no hit. All but `taken` regard detections that overlap no object more."""

    kinds: np.ndarray
    cut: np.ndarray
    taken: np.ndarray
    other: np.ndarray
    near: np.ndarray


def relate(truth: Truth, found: Found, matches: Matches) -> Relations:
    """Relations of all detections; matches: at IoU 0.5, of the same truth and detections."""
    rows = np.flatnonzero(~truth.crowd)
    rows = rows[np.argsort(truth.image[rows], kind="stable")]
    places = np.arange(len(truth.image_ids) + 1)
    edges, starts = np.searchsorted(truth.image[rows], places), np.searchsorted(found.images, places)
    objects, boxes = (torch.from_numpy(np.concatenate((b[:, :2], b[:, :2] + b[:, 2:]), 1))
                      for b in (truth.boxes, found.boxes))
    order = [KIND[key] for key in ("duplicate", "class", "localisation", "both")]
    kinds = np.full(len(found), KIND["background"], np.int8)
    cut, taken, other, near = (np.zeros(len(truth.image)) for _ in range(4))
    for place in np.flatnonzero(np.diff(edges) * np.diff(starts)).tolist():
        of, own = slice(starts[place], starts[place + 1]), rows[edges[place]:edges[place + 1]]
        overlap = box_iou(boxes[of], objects[own]).nan_to_num_().numpy()  # (D, G)
        scores, state, hit = found.scores[of], matches.state[of], matches.objects[of]
        alike = found.labels[of][:, None] == truth.label[own]
        same, different = (np.where(mask, overlap, 0).max(1) for mask in (alike, ~alike))
        kinds[of] = np.select([same >= IOU, different >= IOU, same >= NEAR, different >= NEAR], order,
                              KIND["background"])
        best = overlap.argmax(1)
        reach, right = overlap.max(1), alike[np.arange(len(best)), best]
        for target, mask in ((cut, right & (reach >= IOU) & (state == -1)),
                             (other, ~right & (reach >= IOU) & (state != 1)),
                             (near, right & (reach >= NEAR) & (reach < IOU) & (state != 1))):
            np.maximum.at(target, own[best[mask]], scores[mask])
        elsewhere = alike & (overlap >= IOU) & (state == 1)[:, None] & (hit[:, None] != own)
        taken[own] = np.where(elsewhere, scores[:, None], 0).max(0)
    return Relations(kinds, cut, taken, other, near)
