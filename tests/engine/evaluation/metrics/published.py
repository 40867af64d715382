"""Evaluations written out slowly and plainly from their published definitions, one object at a time.

`coco_like` is COCO's matching with any overlaps, sizes and numbers of detections, as AI-TOD, TinyPerson and SODA-D use
it; `visdrone` the text of VisDrone's toolkit (dropObjectsInIgr, evalRes, calcAccuracy, VOCap) for real-valued boxes.
"""

import numpy as np

from engine.evaluation.metrics.found import Found
from utils.truth import Truth

RECALLS = np.linspace(0, 1, 101)


def intersection(a, b) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0.0


def overlap(det, obj, ignored: bool) -> float:
    """IoU, of an ignore region the intersection over the detection."""
    common = intersection(det, obj)
    if not common:
        return 0.0
    return common / (det[2] * det[3] if ignored else det[2] * det[3] + obj[2] * obj[3] - common)


def of_class(truth: Truth, found: Found, image: int, label: int, crowd: np.ndarray):
    """Objects (box, area, crowd) and detections (box, score), best first, of one image and class."""
    objects = [(truth.boxes[j], truth.areas[j], bool(crowd[j])) for j in range(len(truth.image))
               if truth.image[j] == image and truth.label[j] == label]
    rows = [i for i in range(len(found)) if found.images[i] == image and found.labels[i] == label]
    rows.sort(key=lambda i: -found.scores[i])
    return objects, [(found.boxes[i], found.scores[i]) for i in rows]


def coco_like(truth: Truth, found: Found, iou: float, span: tuple[float, float], limit: int,
              ignore_marked: bool) -> list[tuple[float, float]]:
    """(AP, greatest recall) of each class; (-1, -1) without an object of that size."""
    crowd = truth.crowd | truth.marked if ignore_marked else truth.crowd
    per_class = []
    for label in np.argsort(np.array(truth.category_ids)):
        results, total = [], 0
        for image in sorted(range(len(truth.image_ids)), key=lambda k: truth.image_ids[k]):
            objects, dets = of_class(truth, found, image, label, crowd)
            outside = [c or area < span[0] or area > span[1] for _, area, c in objects]
            order = sorted(range(len(objects)), key=lambda j: outside[j])
            total += outside.count(False)
            taken = set()
            for box, score in dets[:limit]:
                best, at = min(iou, 1 - 1e-10), None
                for j in order:
                    if j in taken and not objects[j][2]:
                        continue
                    if at is not None and not outside[at] and outside[j]:
                        break
                    value = overlap(box, objects[j][0], objects[j][2])
                    if value >= best:
                        best, at = value, j
                if at is not None:
                    taken.add(at)
                area = box[2] * box[3]
                neither = outside[at] if at is not None else area < span[0] or area > span[1]
                if not neither:
                    results.append((score, at is not None))
        results.sort(key=lambda r: -r[0])
        if not total:
            per_class.append((label, -1.0, -1.0))
            continue
        hits = np.cumsum([hit for _, hit in results]) if results else np.zeros(0)
        recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
        ap = np.mean([max([p for p, r in zip(precision, recall, strict=True) if r >= t], default=0.0)
                      for t in RECALLS])
        per_class.append((label, ap, recall[-1] if len(recall) else 0.0))
    return [(ap, recall) for _, ap, recall in sorted(per_class)]


def share_in(box, regions) -> float:
    """Share of a box in the union of regions, by inclusion and exclusion."""
    if box[2] * box[3] <= 0:
        return 0.0
    total = 0.0
    for mask in range(1, 2 ** len(regions)):
        chosen = [regions[k] for k in range(len(regions)) if mask >> k & 1]
        left, top = max(box[0], *(r[0] for r in chosen)), max(box[1], *(r[1] for r in chosen))
        right = min(box[0] + box[2], *(r[0] + r[2] for r in chosen))
        bottom = min(box[1] + box[3], *(r[1] + r[3] for r in chosen))
        if right > left and bottom > top:
            total += (right - left) * (bottom - top) * (-1) ** (len(chosen) + 1)
    return total / (box[2] * box[3])


def visdrone(truth: Truth, found: Found, regions: dict[int, list]) -> dict[str, float]:
    """The seven numbers. Crowds and marked annotations are objects of score 0; regions: image -> boxes."""
    ious, limits = np.linspace(0.5, 0.95, 10), (1, 10, 100, 500)
    images = range(len(truth.image_ids))
    objects, dets = [], []  # per image: [box, label, ignored], [box, label, score]
    for image in images:
        objects.append([(truth.boxes[j], truth.label[j], bool(truth.crowd[j] or truth.marked[j]))
                        for j in range(len(truth.image)) if truth.image[j] == image
                        and share_in(truth.boxes[j], regions.get(image, [])) < 0.5])
        rows = [i for i in range(len(found)) if found.images[i] == image
                and share_in(found.boxes[i], regions.get(image, [])) < 0.5]
        rows.sort(key=lambda i: -found.scores[i])
        dets.append([(found.boxes[i], found.labels[i], found.scores[i]) for i in rows])
    ap, ar = {}, {}
    for label in range(len(truth.category_ids)):
        if not any(o[1] == label for of in objects for o in of):
            continue
        for t, iou in enumerate(ious):
            for limit in limits:
                results, total = [], 0
                for image in images:
                    gt = sorted((o for o in objects[image] if o[1] == label), key=lambda o: o[2])
                    total += len(gt)
                    matched = [False] * len(gt)
                    for box, _, score in (d for d in dets[image][:limit] if d[1] == label):
                        best, at = min(iou, 1 - 1e-10), None
                        for g, (other, _, ignored) in enumerate(gt):
                            if matched[g] and not ignored:
                                continue
                            if at is not None and not gt[at][2] and ignored:
                                break
                            value = overlap(box, other, ignored)
                            if value >= best:
                                best, at = value, g
                        kind = 0 if at is None else -1 if gt[at][2] else 1
                        if kind == 1:
                            matched[at] = True
                        results.append((score, kind))
                results.sort(key=lambda r: -r[0])
                tp = np.cumsum([kind == 1 for _, kind in results]) if results else np.zeros(0)
                fp = np.cumsum([kind == 0 for _, kind in results]) if results else np.zeros(0)
                ar[label, t, limit] = tp[-1] / total if len(tp) else 0.0
            ap[label, t] = voc_ap(tp / total, tp / np.maximum(tp + fp, 1))
    mean = {"AP": list(ap.values()), "AP50": [v for (_, t), v in ap.items() if t == 0],
            "AP75": [v for (_, t), v in ap.items() if t == 5],
            **{f"AR{n}": [v for (_, _, limit), v in ar.items() if limit == n] for n in limits}}
    return {name: float(np.mean(values)) if values else -1.0 for name, values in mean.items()}


def voc_ap(recall, precision) -> float:
    """VOCap of the VOC development kit."""
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])
