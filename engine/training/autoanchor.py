"""Anchors for a data set: how well a table of them fits, and fitted ones where it does not (YOLOv3, v5 and v7).

Legend: N objects, L levels, na anchors per level, k = L * na, c cells of a histogram; sizes are (width, height) in
pixels of the training frame.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch

from models.builder import build_graph
from models.heads.anchor import AnchorDetect, anchor_pairs
from models.rows import aliases_of, find_layer, parse_row
from utils.errors import UserError

GOOD_RECALL = 0.98  # a table with a higher best possible recall is kept
PER_OCTAVE = 16  # cells of the histogram per doubling of a side: sides within 4.4 % share one
MUTATED, SPREAD = 0.9, 0.1  # evolution: probability that a mutation changes a number, and the spread of its factor


class Fit(NamedTuple):
    """bpr: best possible recall, the share of objects within the threshold of an anchor; per_object: mean number of
    such anchors per object."""

    bpr: float
    per_object: float


def best_possible_recall(wh: np.ndarray, anchors: np.ndarray, threshold: float = 4.0) -> Fit:
    """How well `anchors` (L, na, 2) fit objects of sizes `wh` (N, 2): both sides within a factor of `threshold`.

    Both numbers are 0 without objects.
    """
    if len(wh) == 0:
        return Fit(0.0, 0.0)
    near = _closeness(wh, np.asarray(anchors, np.float64).reshape(-1, 2)) > 1 / threshold  # (N, k)
    return Fit(float(near.any(1).mean()), float(near.sum(1).mean()))


def fit_anchors(wh: np.ndarray, levels: int, per_level: int, *, threshold: float = 4.0, generations: int = 1000,
                seed: int = 0) -> np.ndarray:
    """Anchors fitted to objects of sizes `wh` (N, 2), N >= 1: (levels, per_level, 2), small ones on fine levels.

    k-means on the logarithms of the sizes, then `generations` random mutations; those are kept that raise the mean
    closeness of the objects to their best anchor, where objects beyond `threshold` count 0. Deterministic for a seed.
    Works on a histogram, so that its time hardly grows with N: 1.3 s on one core for COCO's 860,000 objects.
    """
    rng = np.random.default_rng(seed)
    sizes, weights = _histogram(np.asarray(wh, np.float64))  # (c, 2), (c,)
    anchors = _k_means(sizes, weights, levels * per_level, rng)
    anchors = _evolve(sizes, weights, anchors, 1 / threshold, generations, rng)
    anchors = anchors[np.argsort(anchors.prod(1), kind="stable")]
    return anchors.round(1).reshape(levels, per_level, 2)


def adapt_anchors(config: dict[str, Any], wh: np.ndarray, imgsz: int, threshold: float = 4.0, *, count: int = 0,
                  seed: int = 0) -> tuple[dict[str, Any], str]:
    """A resolved model config with anchors that fit the objects of a data set, and a line for the log.

    config: from `models.catalogue.resolve`; returned unchanged if its anchors fit, else as a copy with the fitted
    table, so that a checkpoint rebuilds the same model. wh: (N, 2) sizes at `imgsz` pixels
    (`data.object_sizes`). count: fit so many anchors per level in any case; 0: keep the model's own table if its
    best possible recall is above 0.98; `anchors: 3` in a model file always fits. The line is empty for models without
    anchors.
    """
    row = parse_row(config["head"][-1], f"{config['source']}: the head")
    kind, args, options = find_layer(row, aliases_of(config))
    if not issubclass(kind.cls, AnchorDetect):
        return config, ""
    given = kind.signature.bind(*args, **options).arguments["anchors"]
    if count:
        config = _with_table(config, count)
    with torch.device("meta"):  # no memory, no initialisation: only to know levels and strides
        head = build_graph(config)[-1]
    levels, per_level = head.anchors.shape[:2]
    always = bool(count) or isinstance(given, int)
    table = np.array(anchor_pairs(count or given, head.strides, head.added_levels))  # (L, na, 2)
    if len(wh) == 0:
        return config, f"anchors: no objects of 2 px or more at {imgsz} px to fit to; kept as they are"
    found = best_possible_recall(wh, table, threshold)
    reach = f"of objects at {imgsz} px within {threshold:g}x of an anchor"
    if found.bpr > GOOD_RECALL and not always:
        return config, f"anchors: {found.bpr:.3f} {reach}, {found.per_object:.1f} anchors each; kept"
    fitted = fit_anchors(wh, levels, per_level, threshold=threshold, seed=seed)
    better = best_possible_recall(wh, fitted, threshold)
    number = levels * per_level
    if always:
        text = f"anchors: {number} fitted to the data, {better.bpr:.3f} {reach}, {better.per_object:.1f} each"
        return _with_table(config, fitted.tolist()), text
    if better.bpr <= found.bpr:
        return config, f"anchors: {found.bpr:.3f} {reach}; no better ones were found; kept"
    text = f"anchors: {found.bpr:.3f} {reach}, too few: {number} new ones give {better.bpr:.3f}"
    return _with_table(config, fitted.tolist()), text


def _with_table(config: dict[str, Any], table: Any) -> dict[str, Any]:
    """A copy whose head's row refers to `table`, whether its anchors were given by position or by name."""
    config = copy.deepcopy(config)
    entry = config["head"][-1]
    args = entry.get("args", []) if isinstance(entry, dict) else entry[3]
    options = (entry.get("options") if isinstance(entry, dict) else entry[5] if len(entry) > 5 else None) or {}
    if "anchors" in options:
        options["anchors"] = "anchors"
    elif len(args) > 1:
        args[1] = "anchors"
    else:
        raise UserError(f"{config['source']}: the head's row must hold [nc, anchors] to get fitted anchors",
                        "unsupported-row")
    config["anchors"] = table
    return config


def _closeness(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(n, 2) and (k, 2) -> (n, k): the smaller ratio of the sides, 1 for equal sizes."""
    with np.errstate(divide="ignore"):  # an object of width 0 has closeness 0
        ratio = np.minimum(sizes[:, None, 0] / anchors[:, 0], anchors[:, 0] / sizes[:, None, 0])
        return np.minimum(ratio, np.minimum(sizes[:, None, 1] / anchors[:, 1], anchors[:, 1] / sizes[:, None, 1]))


def _histogram(wh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) -> mean sizes (c, 2) and shares (c,) of the occupied cells of a logarithmic grid."""
    places = np.floor(np.log2(np.maximum(wh, 1e-3)) * PER_OCTAVE).astype(np.int64)
    places -= places.min(0)
    _, cell = np.unique(places[:, 0] * (places[:, 1].max() + 1) + places[:, 1], return_inverse=True)
    counts = np.bincount(cell)
    means = np.stack([np.bincount(cell, side) / counts for side in wh.T], 1)
    return means, counts / len(wh)


def _k_means(sizes: np.ndarray, weights: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's k-means with k-means++ initialisation: (k, 2). On logarithms, since ratios matter: on each of four data
    sets the evolution ends higher than from k-means on plain sizes, as in the original implementations."""
    points = np.log(sizes)
    centres = points[rng.choice(len(points), 1, p=weights)]
    while len(centres) < k:
        far = weights * _square_distances(points, centres).min(1)
        chosen = far / far.sum() if far.sum() > 0 else weights  # fewer distinct sizes than anchors: some repeat
        centres = np.concatenate([centres, points[rng.choice(len(points), 1, p=chosen)]])
    for _ in range(50):
        owner = _square_distances(points, centres).argmin(1)
        mass = np.bincount(owner, weights, k)
        moved = np.stack([np.bincount(owner, weights * side, k) for side in points.T], 1)
        moved = np.where(mass[:, None] > 0, moved / np.maximum(mass, 1e-300)[:, None], centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-3):
            break
        centres = moved
    return np.exp(centres)


def _square_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(c, 2) and (k, 2) -> (c, k)."""
    return (points[:, None, 0] - centres[:, 0]) ** 2 + (points[:, None, 1] - centres[:, 1]) ** 2


def _evolve(sizes: np.ndarray, weights: np.ndarray, anchors: np.ndarray, least: float, generations: int,
            rng: np.random.Generator) -> np.ndarray:
    """The best of `generations` random mutations, each of the best so far."""

    def fitness(candidate: np.ndarray) -> float:
        best = _closeness(sizes, candidate).max(1)
        return float((weights * best)[best > least].sum())

    best = fitness(anchors)
    for _ in range(generations):
        changed = rng.random(anchors.shape) < MUTATED
        step = np.where(changed, rng.random() * rng.standard_normal(anchors.shape) * SPREAD, 0)
        mutant = np.maximum(anchors * np.clip(1 + step, 0.3, 3.0), 2.0)
        score = fitness(mutant)
        if score > best:
            anchors, best = mutant, score
    return anchors
