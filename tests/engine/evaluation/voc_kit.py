"""VOC's evaluation written out plainly, after the published algorithm of the development kit (VOCevaldet, VOCap): the
reference of the tests. Boxes are xmin, ymin, xmax, ymax in whole pixels' counting: from 1, the last one included."""

import math

Objects = dict[str, list[tuple[tuple[float, ...], bool]]]  # image -> boxes of a class with their `difficult`
Rows = list[tuple[str, float, tuple[float, ...]]]  # image, score, box


def kit_overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def kit_curve(objects: Objects, rows: Rows) -> tuple[list[float], list[float]]:
    """Recall and precision after each detection of a class."""
    count = sum(not difficult for boxes in objects.values() for _, difficult in boxes)
    taken = {image: [False] * len(boxes) for image, boxes in objects.items()}
    tp = fp = 0
    recall, precision = [], []
    for image, _, box in sorted(rows, key=lambda row: -row[1]):  # stable
        most, best = -math.inf, -1
        for j, (other, _) in enumerate(objects.get(image, [])):
            overlap = kit_overlap(box, other)
            if overlap > most:
                most, best = overlap, j
        if most > 0.5:
            if not objects[image][best][1]:
                if taken[image][best]:
                    fp += 1
                else:
                    tp += 1
                    taken[image][best] = True
        else:
            fp += 1
        recall.append(tp / count)
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
    return recall, precision


def kit_ap(objects: Objects, rows: Rows, rule: str) -> float:
    """AP of a class with at least one object that counts; rule: voc07 or voc."""
    recall, precision = kit_curve(objects, rows)
    if rule == "voc07":
        ap = 0.0
        for k in range(11):
            ap += max([p for r, p in zip(recall, precision, strict=True) if r >= k * 0.1], default=0) / 11
        return ap
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
