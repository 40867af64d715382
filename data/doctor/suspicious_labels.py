"""Labels that are often mistakes, found in the arrays of a split without a loop over labels.

Legend: n images, M labels of all images together. Ignore regions are never suspected: they may have any shape.
"""

from dataclasses import dataclass

import numpy as np

from data.labels.records import RecordTable

THIN = 3.0  # pixels
WHOLE = 0.95  # share of the image
STRETCHED = 20.0  # length to breadth
SAME_PLACE = 0.9  # IoU
CROWDED = 5.0  # times as many labels as 95 % of the images have at most, and at least 50

KINDS = {
    "thin": f"boxes less than {THIN:g} px wide or high",
    "whole": f"boxes that cover {WHOLE:.0%} of their image or more",
    "stretched": f"boxes more than {STRETCHED:g} times as long as wide",
    "contested": f"boxes on which a box of another class lies (IoU {SAME_PLACE:g} or more)",
    "twice": f"boxes on which a box of the same class lies (IoU {SAME_PLACE:g} or more)",
}
# Share of a split's labels from which a kind is more than a note. Whole images are ordinary in photographs.
LOOK_FROM = {"thin": 0.001, "whole": 0.05, "stretched": 0.005, "contested": 0.002, "twice": 0.001}


@dataclass(frozen=True)
class Suspects:
    """labels: kind of KINDS -> positions (k,) of suspicious labels, the worst first; crowded: positions of images with
    extraordinarily many labels, the fullest first."""

    labels: dict[str, np.ndarray]
    crowded: np.ndarray


def suspects(table: RecordTable) -> Suspects:
    """The suspicious labels and images of a split."""
    image = table.image_of_label()
    boxes = table.boxes.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]  # width, height
    frames = table.sizes[image].astype(np.float64)
    objects = ~table.ignore
    breadth, length = sides.min(1, initial=np.inf), sides.max(1, initial=0)
    cover = sides.prod(1) / np.maximum(frames.prod(1), 1)
    ratio = length / np.maximum(breadth, 1e-6)
    other, same = _same_place(boxes, table.labels, image, objects)
    found = {"thin": _worst(objects & (breadth < THIN), breadth), "whole": _worst(objects & (cover >= WHOLE), -cover),
             "stretched": _worst(objects & (ratio > STRETCHED), -ratio), "contested": other, "twice": same}
    counts = np.bincount(image[objects], minlength=len(table))
    usual = np.percentile(counts[counts > 0], 95) if counts.any() else 0
    crowded = np.flatnonzero((counts >= 50) & (counts > CROWDED * usual))
    return Suspects({kind: rows for kind, rows in found.items() if len(rows)},
                    crowded[np.argsort(-counts[crowded], kind="stable")])


def _worst(fault: np.ndarray, badness: np.ndarray) -> np.ndarray:
    """Positions where there is a fault, the lowest `badness` first."""
    rows = np.flatnonzero(fault)
    return rows[np.argsort(badness[rows], kind="stable")]


def _same_place(boxes: np.ndarray, labels: np.ndarray, image: np.ndarray,
                objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of boxes on nearly the place of another: one of another class, and one of the same class.

    Where two boxes overlap by IoU t, the left edge of neither lies further right than (1 - t) of the other's width. So
    labels are sorted by image and left edge, and each is compared with those that follow it that closely.
    """
    rows = np.flatnonzero(objects)
    rows = rows[np.lexsort((boxes[rows, 0], image[rows]))]
    box, label, picture = boxes[rows], labels[rows], image[rows]
    reach = box[:, 0] + (1 - SAME_PLACE) * (box[:, 2] - box[:, 0])
    active = np.arange(len(rows))
    other, same = [rows[:0]], [rows[:0]]
    for step in range(1, len(rows)):
        active = active[active < len(rows) - step]
        behind = active + step
        active = active[(picture[behind] == picture[active]) & (box[behind, 0] <= reach[active])]
        if not len(active):
            break
        match = active[_overlap(box[active], box[active + step]) >= SAME_PLACE]
        differ = label[match] != label[match + step]
        other += [rows[match[differ]], rows[match[differ] + step]]
        same.append(rows[match[~differ] + step])
    return np.unique(np.concatenate(other)), np.unique(np.concatenate(same))


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(K,) IoU of pairs of boxes (K, 4)."""
    inside = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    both = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inside
    return inside / np.maximum(both, 1e-9)
