"""Protocols of evaluation: which overlaps, object sizes and numbers of detections are counted, and under which names.

Each is data. Its `rule` names the procedure that turns matches into numbers: that of COCO (101-point precision, by the
engine), or those of VOC and VisDrone (`engine.evaluation.metrics.voc`, `.visdrone`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from utils.truth import AREA_RANGES, Truth

ANY_AREA = (0.0, 1e10)  # COCOeval's range "all"
COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
NO_LIMIT = 1_000_000  # detections of an image: all
CHANGED = "own"  # name of a protocol with sizes or overlaps of the user's


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
    included, the first for all; max_dets: ascending, per image and class, by rule "visdrone" per image; stats: the
    numbers, the first of which ranks models.

    rule: the procedure; marked: annotations marked `ignore` are ignore regions; kept: detections that selection should
    leave of an image (None: as many as the model does); beside: another limit, whose numbers stand beside.
    """

    name: str
    title: str
    ious: tuple[float, ...]
    areas: dict[str, tuple[float, float]]
    max_dets: tuple[int, ...]
    stats: tuple[Stat, ...]
    rule: Literal["coco", "voc07", "voc", "visdrone"] = "coco"
    marked: bool = False
    kept: int | None = None
    beside: int | None = None

    @property
    def max_det(self) -> int:
        """Detections of an image and class that count."""
        return self.max_dets[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers, in order."""
        return tuple(stat.name for stat in self.stats)

    def truth(self, truth: Truth) -> Truth:
        """The truth as this protocol reads it."""
        return truth.marked_as_crowd() if self.marked else truth

    def with_limit(self, limit: int) -> "Protocol":
        """The same with another greatest number of detections; the numbers keep their names."""
        stats = tuple(replace(s, max_det=limit) if s.max_det == self.max_det else s for s in self.stats)
        return replace(self, max_dets=(*(n for n in self.max_dets[:-1] if n < limit), limit), stats=stats)

    def changed(self, ious: Sequence[float] = (), sides: Sequence[float] = ()) -> "Protocol":
        """The same with other overlaps or sizes, named `CHANGED`; only for rule "coco". Without either, itself.

        ious: thresholds; numbers at a single IoU that is not among them go, and one at the lowest is added. sides:
        limits between sizes, pixels of sqrt(area), ascending; they replace the protocol's sizes.
        """
        if not ious and not sides:
            return self
        if self.rule != "coco":
            raise ValueError(f"the rules of {self.name} have overlaps and sizes of their own")
        what, new = [], self
        if sides:
            new = _with_sides(new, [float(side) for side in sides])
            what.append(f"sizes split at {', '.join(f'{side:g}' for side in sides)} px")
        if ious:
            new = _with_ious(new, sorted(float(t) for t in ious))
            what.append(f"IoU {', '.join(f'{t:.2f}' for t in new.ious)}")
        return replace(new, name=CHANGED, title=f"NOT the numbers of {self.name}: {'; '.join(what)}, else as it")


def _with_sides(protocol: Protocol, sides: list[float]) -> Protocol:
    edges = [0.0, *(side ** 2 for side in sides), ANY_AREA[1]]
    labels = [f"<{sides[0]:g}", *(f"{a:g}-{b:g}" for a, b in zip(sides, sides[1:], strict=False)), f">{sides[-1]:g}"]
    bins = dict(zip(labels, zip(edges[:-1], edges[1:], strict=True), strict=True))
    stats: list[Stat] = []
    for stat in protocol.stats:
        if stat.area == "all":
            stats.append(stat)
            continue
        stem = stat.name.rsplit("_", 1)[0]
        fresh = [replace(stat, name=f"{stem}_{label}", area=label) for label in bins]
        stats += [s for s in fresh if s not in stats]
    return replace(protocol, areas={"all": protocol.areas["all"], **bins}, stats=tuple(stats))


def _with_ious(protocol: Protocol, ious: list[float]) -> Protocol:
    def own(iou: float) -> float | None:
        return next((t for t in ious if abs(t - iou) < 1e-9), None)

    stats = [s if s.iou is None else replace(s, iou=own(s.iou)) for s in protocol.stats
             if s.iou is None or own(s.iou) is not None]
    limit = protocol.max_det
    if not any(s.kind == "AP" and s.iou is None and s.area == "all" for s in stats):
        stats.insert(0, Stat("AP", "AP", max_det=limit))
    lowest = Stat(f"AP{100 * ious[0]:g}", "AP", ious[0], max_det=limit)
    if lowest.name not in [s.name for s in stats]:
        stats.insert(1, lowest)
    return replace(protocol, ious=tuple(ious), stats=tuple(stats))


def _coco() -> Protocol:
    sizes = {"all": ANY_AREA} | {name: (float(low), float(min(high, ANY_AREA[1])))
                                 for name, (low, high) in AREA_RANGES.items()}
    letters = {"S": "small", "M": "medium", "L": "large"}
    return Protocol("coco", "COCO: IoU 0.50 to 0.95, 100 detections", COCO_IOUS, sizes, (1, 10, 100),
                    _stats(letters, (1, 10, 100)))


def _stats(letters: dict[str, str], max_dets: tuple[int, ...]) -> tuple[Stat, ...]:
    """AP, AP50, AP75, AP by size, AR by number of detections and by size, in COCO's order."""
    limit = max_dets[-1]
    return (Stat("AP", "AP", max_det=limit), Stat("AP50", "AP", 0.5, max_det=limit),
            Stat("AP75", "AP", 0.75, max_det=limit),
            *(Stat(f"AP_{letter}", "AP", area=area, max_det=limit) for letter, area in letters.items()),
            *(Stat(f"AR{n}", "AR", max_det=n) for n in max_dets),
            *(Stat(f"AR_{letter}", "AR", area=area, max_det=limit) for letter, area in letters.items()))


def _aitod() -> Protocol:
    """AI-TOD (Wang et al. 2021, section III; Xu et al. 2022): COCO's with four sizes and 1500 detections."""
    areas = {"all": ANY_AREA, "very tiny": (0.0, 64.0), "tiny": (64.0, 256.0), "small": (256.0, 1024.0),
             "medium": (1024.0, ANY_AREA[1])}
    letters = {"vt": "very tiny", "t": "tiny", "s": "small", "m": "medium"}
    return Protocol("aitod", "AI-TOD: IoU 0.50 to 0.95, 1500 detections", COCO_IOUS, areas, (1, 100, 1500),
                    _stats(letters, (1, 100, 1500)), kept=1500)


def _tinyperson() -> Protocol:
    """TinyPerson (Yu et al. 2020, section 3): AP at single overlaps by size; `ignore` and `uncertain` are ignored."""
    sides = {"tiny": (1, 20), "tiny1": (1, 8), "tiny2": (8, 12), "tiny3": (12, 20), "small": (20, 32)}
    areas = {"all": (1.0, ANY_AREA[1])} | {name: (float(a * a), float(b * b)) for name, (a, b) in sides.items()}
    stats = (*(Stat(f"AP50_{area}", "AP", 0.5, area, 200) for area in sides),
             Stat("AP25_tiny", "AP", 0.25, "tiny", 200), Stat("AP75_tiny", "AP", 0.75, "tiny", 200),
             Stat("AP50", "AP", 0.5, max_det=200), Stat("AR50_tiny", "AR", 0.5, "tiny", 200))
    return Protocol("tinyperson", "TinyPerson: IoU 0.25, 0.50, 0.75, 200 detections", (0.25, 0.5, 0.75), areas, (200,),
                    stats, marked=True, kept=200)


def _sodad() -> Protocol:
    """SODA-D (Cheng et al. 2023, section 5.1): COCO's with four sizes up to 2000 px^2 and 20,000 detections."""
    areas = {"all": ANY_AREA, "extremely small": (0.0, 144.0), "relatively small": (144.0, 400.0),
             "generally small": (400.0, 1024.0), "normal": (1024.0, 2000.0)}
    letters = {"eS": "extremely small", "rS": "relatively small", "gS": "generally small", "N": "normal"}
    return Protocol("sodad", "SODA-D: IoU 0.50 to 0.95, 20,000 detections", COCO_IOUS, areas, (1, 100, 20_000),
                    _stats(letters, (1, 100, 20_000)), kept=20_000)


def _visdrone() -> Protocol:
    """VisDrone-DET (Zhu et al. 2021, section 4): numbers of detections are those of an image, over all classes."""
    return Protocol("visdrone", "VisDrone-DET: IoU 0.50 to 0.95, 500 detections an image", COCO_IOUS,
                    {"all": ANY_AREA}, (1, 10, 100, 500), _stats({}, (1, 10, 100, 500)), rule="visdrone", kept=500)


def _voc(name: Literal["voc07", "voc"], title: str) -> Protocol:
    stats = (Stat(f"AP_{name}", "AP", 0.5, max_det=NO_LIMIT), Stat(f"R_{name}", "AR", 0.5, max_det=NO_LIMIT))
    return Protocol(name, title, (0.5,), {"all": ANY_AREA}, (NO_LIMIT,), stats, rule=name)


VOC_RULES = {"voc07": "VOC 2007: 11-point AP", "voc": "VOC 2010 and later: area under the precision envelope"}
COCO = _coco()
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (
    COCO, *(_voc(name, title) for name, title in VOC_RULES.items()), _visdrone(), _aitod(), _tinyperson(), _sodad())}

