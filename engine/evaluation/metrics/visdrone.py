"""VisDrone's numbers, by the rule of its DET toolkit (Zhu et al. 2021, "Detection and Tracking Meet Drones Challenge").

Objects and detections with half or more of their area in ignored regions are dropped. Of each image the 1, 10, 100 or
500 best detections over all classes count. They are matched as COCO matches; an object of score 0 is an ignored one:
a detection on it, by intersection over the detection, is neither right nor false, but it counts in recall. AP is the
area under the precision envelope. Means are over classes with any object.

Legend: n images, M annotations, D detections, K classes, T IoU thresholds, L limits of the number of detections.
"""

from dataclasses import dataclass, replace

import numpy as np

from engine.evaluation.metrics.engine import RECALLS
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.matching import Matches, match_at
from engine.evaluation.metrics.protocol import Protocol
from engine.evaluation.metrics.voc import ap_area, envelope
from utils.truth import Truth

DROPPED = 0.5  # share of an area in ignored regions from which it is dropped


@dataclass(frozen=True, eq=False)
class VisdroneArrays:
    """ap (T, K), ar (T, K, L): -1 of classes without any object. At the first threshold: curve (101, K), the highest
    precision at each recall or more, and what became of each detection of `found`, which are those that count; truth:
    the objects that count; totals (K,): objects of a class that count in recall, ignored ones among them."""

    ap: np.ndarray
    ar: np.ndarray
    curve: np.ndarray
    matches: Matches
    truth: Truth
    found: Found
    totals: np.ndarray


def visdrone_arrays(truth: Truth, found: Found, protocol: Protocol) -> VisdroneArrays:
    """AP and greatest recall of each class at each threshold of a protocol."""
    truth, found = without_regions(truth, found)
    found = found.best(protocol.max_det, by_class=False)
    k, limits = len(truth.category_ids), protocol.max_dets
    totals = np.bincount(truth.label, minlength=k)
    ap, ar = (np.full((len(protocol.ious), k, *shape), -1.0) for shape in ((), (len(limits),)))
    curve = np.zeros((len(RECALLS), k))
    counts = [found.is_best(limit, by_class=False) for limit in limits]
    order = np.lexsort((-found.scores, found.labels))  # stable: equal scores stay in the order of the images
    edges = np.searchsorted(found.labels[order], np.arange(k + 1)).tolist()
    matches = match_at(truth, found, protocol.ious)
    for t, matched in enumerate(matches):
        for c in np.flatnonzero(totals).tolist():
            rows = order[edges[c]:edges[c + 1]]
            state = matched.state[rows]
            right, false = (state == 1).cumsum(), (state == 0).cumsum()
            recall, precision = right / totals[c], right / np.maximum(right + false, 1)
            ap[t, c] = ap_area(recall, precision)
            ar[t, c] = [((state == 1) & counted[rows]).sum() / totals[c] for counted in counts]
            if t == 0:
                curve[:, c] = envelope(recall, precision, RECALLS)
    return VisdroneArrays(ap, ar, curve, matches[0], truth, found, totals)


def without_regions(truth: Truth, found: Found) -> tuple[Truth, Found]:
    """Objects and detections outside the ignored regions; areas are those of the boxes.

    A crowd whose box stands in its image for every class is a region, as `data.formats.visdrone` gives them (ignored
    regions and `others`); any other crowd, and an annotation marked `ignore`, is an ignored object of its class.
    """
    regions = region_rows(truth)
    boxes = np.unique(np.column_stack((truth.image[regions], truth.boxes[regions])), axis=0)
    places = boxes[:, 0].astype(np.int64)
    objects = ~regions & (covered(truth.image, truth.boxes, places, boxes[:, 1:]) < DROPPED)
    columns = {word: getattr(truth, word)[objects] for word in ("image", "label", "boxes", "crowd", "marked")}
    columns["crowd"] = columns["crowd"] | columns["marked"]
    own = replace(truth, areas=columns["boxes"][:, 2] * columns["boxes"][:, 3], **columns)
    return own, found[covered(found.images, found.boxes, places, boxes[:, 1:]) < DROPPED]


def region_rows(truth: Truth) -> np.ndarray:
    """(M,) bool: crowds whose box stands in its image for every class."""
    rows = np.flatnonzero(truth.crowd)
    _, box = np.unique(np.column_stack((truth.image[rows], truth.boxes[rows])), axis=0, return_inverse=True)
    pairs = np.unique(np.column_stack((box.reshape(-1), truth.label[rows])), axis=0)
    found = np.zeros(len(truth.crowd), bool)
    found[rows] = np.bincount(pairs[:, 0])[box.reshape(-1)] == len(truth.category_ids)
    return found


def covered(images: np.ndarray, boxes: np.ndarray, places: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N,) share of the area of each box in the union of the regions of its image; 0 of a box without area.

    images (N,), boxes (N, 4); places (R,) ascending, regions (R, 4): left, top, width, height.
    """
    share = np.zeros(len(boxes))
    for place in np.unique(places).tolist():
        rows = np.flatnonzero(images == place)
        if not len(rows):
            continue
        own = regions[places == place]
        own = np.concatenate((own[:, :2], own[:, :2] + own[:, 2:]), 1)
        grids = [np.unique(own[:, axis::2]) for axis in (0, 1)]  # the edges cut the plane into cells, in or out
        x, y = ((grid[:-1] + grid[1:]) / 2 for grid in grids)
        inside = ((own[:, None, None, 0] < x[:, None]) & (x[:, None] < own[:, None, None, 2])
                  & (own[:, None, None, 1] < y) & (y < own[:, None, None, 3])).any(0).astype(float)
        corners = np.concatenate((boxes[rows, :2], boxes[rows, :2] + boxes[rows, 2:]), 1)
        sides = [np.clip(np.minimum(corners[:, axis + 2, None], grid[1:])
                         - np.maximum(corners[:, axis, None], grid[:-1]), 0, None) for axis, grid in enumerate(grids)]
        area = boxes[rows, 2] * boxes[rows, 3]
        common = ((sides[0] @ inside) * sides[1]).sum(1)
        share[rows] = np.divide(common, area, out=np.zeros(len(rows)), where=area > 0)
    return share
