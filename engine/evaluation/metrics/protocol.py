"""Protocols of evaluation: which overlaps, object sizes and numbers of detections are counted, and under which names.

A protocol that COCO's matching and 101-point precision can express is data (`Protocol`); the engine computes it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from utils.truth import AREA_RANGES

ANY_AREA = (0.0, 1e10)  # COCOeval's range "all"
COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())


@dataclass(frozen=True)
class Stat:
    """One number: the mean AP or AR over classes, at one IoU or over all (None), in an area range, with the best
    `max_det` detections of an image and class."""

    name: str
    kind: Literal["AP", "AR"]
    iou: float | None = None
    area: str = "all"
    max_det: int = 100


@dataclass(frozen=True)
class Protocol:
    """What is counted. ious: overlap thresholds; areas: label -> (least, greatest) area of an object in px^2, both
    included, the first for all; max_dets: ascending; stats: the numbers, the first of which ranks models."""

    name: str
    title: str
    ious: tuple[float, ...]
    areas: dict[str, tuple[float, float]]
    max_dets: tuple[int, ...]
    stats: tuple[Stat, ...]

    @property
    def max_det(self) -> int:
        """Detections of an image and class that count."""
        return self.max_dets[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers, in order."""
        return tuple(stat.name for stat in self.stats)

    def with_limit(self, limit: int) -> "Protocol":
        """The same with another greatest number of detections; the numbers keep their names."""
        stats = tuple(replace(s, max_det=limit) if s.max_det == self.max_det else s for s in self.stats)
        return replace(self, max_dets=(*(n for n in self.max_dets[:-1] if n < limit), limit), stats=stats)


def _coco() -> Protocol:
    sizes = {"all": ANY_AREA} | {name: (float(low), float(min(high, ANY_AREA[1])))
                                 for name, (low, high) in AREA_RANGES.items()}
    letters = {"S": "small", "M": "medium", "L": "large"}
    stats = (Stat("AP", "AP"), Stat("AP50", "AP", 0.5), Stat("AP75", "AP", 0.75),
             *(Stat(f"AP_{letter}", "AP", area=area) for letter, area in letters.items()),
             *(Stat(f"AR{n}", "AR", max_det=n) for n in (1, 10, 100)),
             *(Stat(f"AR_{letter}", "AR", area=area) for letter, area in letters.items()))
    return Protocol("coco", "COCO: IoU 0.50 to 0.95, 100 detections", COCO_IOUS, sizes, (1, 10, 100), stats)


COCO = _coco()
PROTOCOLS: dict[str, Protocol] = {COCO.name: COCO}
