"""AP over object size: a curve in octaves of the side, with intervals by a bootstrap over images.

Legend: A bins, B resamples, n images.
"""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.evaluation.comparison.bootstrap import LEVEL, draw_weights, resampled
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.protocol import ANY_AREA, COCO, Protocol, Stat
from utils.files import write_bytes
from utils.truth import Truth

RESAMPLES = 200
MOST = 14  # bins: octaves from below 2 px to above 8192 px


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """edges (A + 1,): limits of the bins, sides sqrt(area) in px, which the outer bins go beyond; ap, low, high (A,):
    AP at `iou`, the mean over classes with an object of that size, and its interval, NaN where there is no object;
    objects (A,)."""

    iou: float
    edges: np.ndarray
    ap: np.ndarray
    low: np.ndarray
    high: np.ndarray
    objects: np.ndarray

    @property
    def name(self) -> str:
        """Of the number: AP50."""
        return f"AP{100 * self.iou:g}"


def size_curve(truth: Truth, found: Found, protocol: Protocol = COCO, resamples: int = RESAMPLES,
               seed: int = 0) -> SizeCurve | None:
    """AP of each octave of object size, at IoU 0.5 or the protocol's least; None without an object.

    A bin is an area range of COCO's rule: objects of other sizes, and detections of other sizes that match none, do not
    count. The interval is as wide as that of 95 % of the values on images drawn with replacement (Efron and Tibshirani
    1993, section 13.3), laid around the value: images that are drawn twice raise AP a little, so the percentiles are
    taken from their median. It says what other images of the same kind would change, not what another training would.
    """
    protocol = protocol if protocol.rule == "coco" else COCO
    truth = protocol.truth(truth)
    sides = np.sqrt(truth.areas[~truth.crowd & (truth.areas > 0)])
    if not len(sides):
        return None
    first, last = (int(np.floor(np.log2(side))) for side in (sides.min(), sides.max()))
    first = min(max(first, 1), 13)
    last = min(max(last, first), first + MOST - 1)
    edges = 2.0 ** np.arange(first, last + 2)
    bounds = [0.0, *(edges[1:-1] ** 2).tolist(), ANY_AREA[1]]
    areas = {str(a): span for a, span in enumerate(zip(bounds[:-1], bounds[1:], strict=True))}
    iou = 0.5 if 0.5 in protocol.ious else protocol.ious[0]
    bins = replace(protocol, ious=(iou,), areas=areas, max_dets=(protocol.max_det,), stats=tuple(
        Stat(f"AP {label}", "AP", iou, label, protocol.max_det) for label in areas))
    n = len(truth.image_ids)
    values = resampled(truth, found, bins, np.concatenate((np.ones((1, n), np.float32),
                                                           draw_weights(n, resamples, seed))))
    low, high = np.array([_around(column[0], column[1:]) for column in values.T.astype(float)]).T
    counted = [int((~truth.crowd & ~((truth.areas < a) | (truth.areas > b))).sum()) for a, b in areas.values()]
    return SizeCurve(iou, edges, values[0].astype(float), low, high, np.array(counted))


def _around(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """The interval of a value from those of resamples (B,); NaN where none is defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined) or not np.isfinite(value):
        return np.nan, np.nan
    tail = (100 - LEVEL) / 2
    low, middle, high = np.percentile(defined, (tail, 50, 100 - tail))
    return max(value + low - middle, 0.0), min(value + high - middle, 1.0)


def write_size_csv(path: Path, curve: SizeCurve) -> None:
    """AP_size.csv: a row per bin; undefined numbers are empty. The outer bins go on beyond their limits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["from_px", "to_px", "objects", curve.name, "low", "high"])
    for a, count in enumerate(curve.objects.tolist()):
        numbers = (float(column[a]) for column in (curve.ap, curve.low, curve.high))
        writer.writerow([f"{curve.edges[a]:g}", f"{curve.edges[a + 1]:g}", count,
                         *("" if np.isnan(v) else f"{v:.6f}" for v in numbers)])
    write_bytes(path, text.getvalue().encode())
