"""How often each image of an epoch is drawn: weights for small objects, rare classes and classes that are hard.

A weight is relative: with `EpochOrder` an image of weight 3 occurs about three times as often in an epoch as one of
weight 1, and the length of the epoch stays the same. Weights of several rules multiply. Crowds and ignore regions count
nowhere; an image without objects has weight 1 in every rule.

Legend: n images, M labels.
"""

from collections.abc import Sequence

import numpy as np

from data.labels.records import Record, RecordTable
from utils.errors import UserError
from utils.truth import SMALL_SIDE


def oversample_small(records: Sequence[Record], factor: float = 3.0) -> np.ndarray:
    """(n,) float64: 1 + (factor - 1) * share of the image's objects that are small; `factor` where all of them are.

    Kisantal et al. 2019 (Augmentation for small object detection, arXiv 1902.07296, section 4) repeat images that have
    small objects, best three times. With the share instead of a yes or no, a street with one small sign gains little.
    """
    if not 1 <= factor < np.inf:
        raise UserError(f"--oversample-small {factor}: should be 1 or more, such as 3: how often an image of small "
                        f"objects comes for one of large objects", "bad-value")
    image, _, table = _objects(records)
    small = (table.areas < SMALL_SIDE ** 2)[~table.ignore]
    objects = np.bincount(image, minlength=len(table))
    share = np.bincount(image, small, minlength=len(table)) / np.maximum(objects, 1)
    return 1 + (factor - 1) * share


def repeat_rare(records: Sequence[Record], nc: int, threshold: float = 0.001) -> np.ndarray:
    """(n,) float64: max over the image's classes of max(1, sqrt(threshold / f_c)); f_c is the share of images with c.

    The repeat factor of LVIS (Gupta et al. 2019, arXiv 1908.03195, appendix B), where the threshold is 0.001: classes
    that are in fewer images than that share are drawn more often.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"--rare-classes {threshold}: should be a share of the images above 0 and up to 1, such as "
                        f"0.001: classes in fewer images are drawn more often", "bad-value")
    image, label, table = _objects(records)
    pairs = np.unique(image * nc + label)  # an image has a class or has it not
    frequency = np.bincount(pairs % nc, minlength=nc) / max(len(table), 1)
    repeat = np.sqrt(np.maximum(threshold / np.maximum(frequency, 1e-12), 1))
    weights = np.ones(len(table))
    np.maximum.at(weights, pairs // nc, repeat[pairs % nc])
    return weights


def image_weights(records: Sequence[Record], nc: int, class_ap: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) float64: sum over the image's labels of (1 - AP_c)^2 / count_c, scaled to mean 1 over images with objects.

    The meaning of YOLOv5's --image-weights, to be asked again after every validation. class_ap (nc,) in [0, 1]; NaN or
    a negative number, a class that the validation has not, stands for the mean of the others. All 1 where no class has
    anything left to learn.
    """
    ap = np.asarray(class_ap, np.float64)
    if ap.shape != (nc,):
        raise ValueError(f"expected an AP for each of {nc} classes, got {ap.shape}")
    known = ap >= 0
    ap = np.where(known, ap, ap[known].mean() if known.any() else 0.0)
    image, label, table = _objects(records)
    counts = np.bincount(label, minlength=nc)
    hard = (1 - np.minimum(ap, 1)) ** 2 / np.maximum(counts, 1)
    weights = np.bincount(image, hard[label], minlength=len(table))
    filled = np.bincount(image, minlength=len(table)) > 0
    mean = weights[filled].mean() if filled.any() else 0.0
    return np.where(filled, weights / mean, 1.0) if mean > 0 else np.ones(len(table))


def describe(flag: str, records: Sequence[Record], weights: np.ndarray) -> str:
    """A sentence about the weights that a flag gave, for the start of a training."""
    image, _, table = _objects(records)
    empty = len(table) - len(np.unique(image))
    more = int((weights > weights.min(initial=np.inf)).sum())
    least, most = weights.min(initial=np.inf), weights.max(initial=0)
    text = (f"{flag}: images weigh {least:.3g} to {most:.3g}, {weights.mean():.3g} on average; {more} of "
            f"{len(weights)} weigh more than the least")
    return text + (f"; the {empty} without objects weigh 1" if empty else "")


def _objects(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, RecordTable]:
    """Image and label of every object, ignore regions left out, and the table they stand in."""
    table = RecordTable.from_records(records)
    objects = ~table.ignore
    return table.image_of_label()[objects], table.labels[objects], table
