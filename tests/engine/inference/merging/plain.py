"""The published rules of merging, written out box by box: what the fast forms are compared with."""

import numpy as np


def overlap(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    own, other = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    inner = wide * high
    return inner / (own + other - inner if metric == "iou" else min(own, other))


def in_order(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    return sorted(range(len(scores)), key=lambda k: (-scores[k], *boxes[k].tolist(), k))


def matches(boxes: np.ndarray, labels: np.ndarray, a: int, b: int, metric: str, threshold: float) -> bool:
    found = overlap(boxes[a], boxes[b], metric)
    return labels[a] == labels[b] and found > 0 and found >= threshold


def nms(boxes, scores, labels, metric, threshold, order=None) -> list[int]:
    kept: list[int] = []
    for k in in_order(boxes, scores) if order is None else order:
        if not any(matches(boxes, labels, k, better, metric, threshold) for better in kept):
            kept.append(k)
    return kept


def claims(boxes, scores, labels, metric, threshold, greedy) -> dict[int, list[int]]:
    """Keeper -> what it claims, in order: as SAHI's greedy_nmm and nmm of one class. In the latter what was claimed
    claims on for its keeper, in the order of the input."""
    order = in_order(boxes, scores)
    keeper: dict[int, int] = {}
    for place, k in enumerate(order):
        if k in keeper and greedy:
            continue
        keeper.setdefault(k, k)
        later = order[place + 1:] if greedy else sorted(order[place + 1:])
        for other in later:
            if other not in keeper and matches(boxes, labels, k, other, metric, threshold):
                keeper[other] = keeper[k]
    found: dict[int, list[int]] = {}
    for k, to in keeper.items():
        found.setdefault(to, [])
        if k != to:
            found[to].append(k)
    return found


def nmm(boxes, scores, labels, metric, threshold, greedy=True) -> list[tuple]:
    """(score, label, x1, y1, x2, y2) of each merged box."""
    merged = []
    for keeper, members in claims(boxes, scores, labels, metric, threshold, greedy).items():
        box, score = boxes[keeper].copy(), scores[keeper]
        for member in members:
            found = overlap(box, boxes[member], metric)
            if found > 0 and found >= threshold:
                box = np.concatenate((np.minimum(box[:2], boxes[member][:2]), np.maximum(box[2:], boxes[member][2:])))
                score = max(score, scores[member])
        merged.append((score, labels[keeper], *box.tolist()))
    return sorted(merged)


def wbf(boxes, scores, labels, models, threshold, confidence="avg", model=None) -> list[tuple]:
    """As `nmm`. Every mean is computed anew from all boxes of its cluster."""
    clusters: list[list[int]] = []
    means: list[np.ndarray] = []
    for k in in_order(boxes, scores):
        best, found = threshold, None
        for number, mean in enumerate(means):
            if labels[clusters[number][0]] == labels[k] and overlap(mean, boxes[k], "iou") > best:
                best, found = overlap(mean, boxes[k], "iou"), number
        if found is None:
            clusters.append([k])
            means.append(boxes[k])
        else:
            clusters[found].append(k)
            means[found] = np.average(boxes[clusters[found]], 0, scores[clusters[found]])
    merged = []
    for members, mean in zip(clusters, means, strict=True):
        score = max(scores[members]) if confidence == "max" else (
            np.mean(scores[members]) * min(models, len(members)) / models)
        if confidence == "models":
            score = sum(max([scores[k] for k in members if model[k] == m], default=0.0) for m in range(models)) / models
        merged.append((score, labels[members[0]], *mean.tolist()))
    return sorted(merged)
