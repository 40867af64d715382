"""Copy-paste: objects of a frame are pasted once more at their mirrored place, where they hide little of the others.

Ghiasi et al. 2021 (arXiv 2012.07177) paste objects of other images; YOLOv5 and v8, followed here, mirror those of the
same mosaic. Which objects, and where, are numbers (`paste_labels`); the pixels are one rule that a GPU can follow as
well: where `mask` says so, the frame shows its own mirror image.

It works on the frame after the affine, not on the mosaic's canvas before it: what the frame does not show costs
nothing, and since colour gains act on each pixel alone, they may come before.

Legend: S side of the frame, or its height and width; N labels; K points of an outline. Frames (H, W, C) uint8.
"""

from dataclasses import replace

import cv2
import numpy as np

from data.augment.geometry import Array, Labels, Size, cut_outlines, frame_sides
from data.augment.plan import Paste
from data.labels.records import box_areas

MOST_HIDDEN = 0.3  # of a box's area that all pasted objects together may cover, as in YOLOv5 and v8
FINE = 4  # bits of a pixel's fraction that outlines are drawn with


def paste_labels(plan: Paste, labels: Labels, size: Size, blended: bool = False) -> Labels:
    """The labels of a frame with those of the pasted objects after them, and `pasted`, the outlines to draw.

    Each object is tried with probability `plan.share`, in random order. Its mirrored box must leave 70 % of every
    object's box in sight, its own included; ignore regions may be covered. The object is its polygon, inside its box.
    One without polygon is its box, and is then left alone where others stand in it: they would come along unlabelled.
    The same is asked of all objects of a `blended` frame (mixup), which shows two images in one place.
    """
    width = frame_sides(size)[1]
    rng = np.random.default_rng(plan.seed)
    tickets = rng.random(len(labels))
    boxes = labels.boxes.astype(np.float64)
    seen = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)  # narrower, a box may hold no pixel's centre
    candidates = np.flatnonzero((tickets < plan.share) & ~labels.ignore & seen)
    sight = boxes[~labels.ignore]  # the objects, then those that are pasted
    hidden = np.zeros(len(sight))
    taken: list[int] = []
    outlines: list[Array] = []
    for i in candidates[np.argsort(tickets[candidates])]:
        outline = None if labels.polygons is None or len(labels.polygons[i]) < 3 else labels.polygons[i]
        if (outline is None or blended) and is_shared(i, boxes):
            continue
        mirrored = np.array((width - boxes[i, 2], boxes[i, 1], width - boxes[i, 0], boxes[i, 3]))
        covered = _common(mirrored, sight) / np.maximum(box_areas(sight), 1e-9)
        if (hidden + covered >= MOST_HIDDEN).any():
            continue
        outlines.append(_drawn(outline, mirrored, width))
        taken.append(i)
        sight = np.concatenate((sight, mirrored[None]))
        hidden = np.append(hidden + covered, 0.0)
    labels = replace(labels, polygons=None)  # not needed from here on
    if not taken:
        return labels
    copies = replace(labels[np.array(taken)], boxes=sight[-len(taken):].astype(np.float32), pasted=tuple(outlines))
    return Labels.join([labels, copies])


def draw_pasted(frame: Array, pasted: tuple[Array, ...]) -> Array:
    """The frame with its pasted objects, drawn in place."""
    if pasted:
        where = mask(pasted, frame.shape[:2])
        x1, y1, x2, y2 = _extent(pasted, frame.shape[:2])
        width = frame.shape[1]
        mirror = cv2.flip(frame[y1:y2, width - x2:width - x1], 1)
        cv2.copyTo(mirror, where[y1:y2, x1:x2], frame[y1:y2, x1:x2])
    return frame


def mask(pasted: tuple[Array, ...], size: Size) -> Array:
    """(H, W) uint8: 255 where a frame shows its own mirror image, frame[y, W - 1 - x], 0 elsewhere."""
    where = np.zeros(frame_sides(size), np.uint8)
    for outline in pasted:
        # OpenCV counts from pixel centres, this project from pixel corners: hence the half.
        points = np.round((outline - 0.5) * (1 << FINE)).astype(np.int32)
        cv2.fillPoly(where, [points], 255, shift=FINE)
    return where


def _drawn(outline: Array | None, box: Array, width: int) -> Array:
    """The mirrored outline (K, 2) cut to the mirrored box, in whole pixels where it is that box."""
    if outline is None:
        x1, y1, x2, y2 = np.ceil(box - 0.5) + (0.5, 0.5, -0.5, -0.5)  # the centres of the pixels inside
        return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    mirrored = np.stack((width - outline[:, 0].astype(np.float64), outline[:, 1]), 1)
    return cut_outlines(mirrored, np.array([len(mirrored)]), (*(box[:2] + 0.5), *(box[2:] - 0.5)))[0]


def is_shared(i: int, boxes: Array) -> bool:
    """Whether box i and another share 30 % of the smaller of the two."""
    common = _common(boxes[i], boxes)
    common[i] = 0
    return bool((common >= MOST_HIDDEN * np.minimum(box_areas(boxes), box_areas(boxes[i:i + 1]))).any())


def _common(box: Array, boxes: Array) -> Array:
    """(N,) area that a box (4,) shares with each of (N, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    return np.prod(np.maximum(sides, 0), 1)


def _extent(pasted: tuple[Array, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels around all outlines, inside a frame of `size`."""
    points = np.concatenate(pasted)
    x1, y1 = np.maximum(np.floor(points.min(0)) - 1, 0).astype(int).tolist()
    x2, y2 = np.minimum(np.ceil(points.max(0)) + 1, size[::-1]).astype(int).tolist()
    return x1, y1, x2, y2
