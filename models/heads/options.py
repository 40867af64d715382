"""What all heads share: reading their options, and selection by non-maximum suppression."""

from collections.abc import Sequence

from torch import Tensor

from utils.nms import non_max_suppression
from utils.structures import Detections


def choose(option: str, value: str, known: Sequence[str]) -> str:
    """`value` where it is one of `known`; otherwise ValueError."""
    if value not in known:
        raise ValueError(f"{option} {value!r} is not one of {', '.join(known)}")
    return value


def merge_gains(defaults: dict[str, float], given: dict[str, float] | None) -> dict[str, float]:
    """Loss weights with the given ones replaced. Raises ValueError for a term that the head does not have."""
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ValueError(f"gains {', '.join(unknown)} are not among {', '.join(defaults)}")
    return {**defaults, **(given or {})}


def select_by_nms(boxes: Tensor, scores: Tensor, *, conf: float = 0.25, iou: float = 0.45, max_det: int = 300,
                  classes: Sequence[int] | None = None, agnostic: bool = False,
                  multi_label: bool = False) -> list[Detections]:
    """Boxes (B, N, 4) and scores (B, N, C) -> one `Detections` per image."""
    return non_max_suppression(boxes, scores, conf, iou, max_det=max_det, classes=classes, agnostic=agnostic,
                               multi_label=multi_label)
