"""How alike two boxes are: one function with a table of kinds. A box loss is 1 - similarity.

Boxes are xyxy in any one unit; a is (..., 4), b is (..., 4), broadcast against each other. To add a kind (EIoU, SIoU,
...) write one function of a `BoxPair` and decorate it with `@register_kind("name")`; a plugin may do so too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from math import pi

import torch
from torch import Tensor

from models.registry import choose


class BoxPair:
    """Two sets of boxes and the quantities that the kinds share. Each tensor keeps the shape of its own box until the
    two must meet, so that what depends on one box only (sides, arctangents) is not computed per pair."""

    def __init__(self, a: Tensor, b: Tensor, eps: float, alpha: float) -> None:
        self.eps, self.alpha = eps, alpha
        self.a = a.movedim(-1, 0).contiguous().unbind()  # x1 y1 x2 y2; strided reads would cost more than this copy
        self.b = b.movedim(-1, 0).contiguous().unbind()
        self.a_sides = self.a[2] - self.a[0], self.a[3] - self.a[1] + eps  # eps on heights only, as the originals
        self.b_sides = self.b[2] - self.b[0], self.b[3] - self.b[1] + eps

    @cached_property
    def inner(self) -> tuple[Tensor, Tensor]:
        """Sides of the intersection, negative where the boxes are apart."""
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.a, self.b
        return (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1), torch.minimum(ay2, by2) - torch.maximum(ay1, by1))

    @cached_property
    def outer(self) -> tuple[Tensor, Tensor]:
        """Sides of the hull, the smallest box around both."""
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.a, self.b
        return (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1), torch.maximum(ay2, by2) - torch.minimum(ay1, by1))

    @cached_property
    def intersection(self) -> Tensor:
        # relu, not clamp: for boxes that just touch, clamp's gradient is 1 in older PyTorch and 0 in newer.
        return self.inner[0].relu() * self.inner[1].relu()

    @cached_property
    def union(self) -> Tensor:
        areas = self.a_sides[0] * self.a_sides[1], self.b_sides[0] * self.b_sides[1]
        return areas[0] + areas[1] - self.intersection + self.eps

    @cached_property
    def iou(self) -> Tensor:
        return self.intersection / self.union

    @cached_property
    def centre_term(self) -> Tensor:
        """Squared centre distance over squared hull diagonal (Zheng et al. 2020, eq. 6)."""
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.a, self.b
        distance = ((bx1 + bx2) - (ax1 + ax2)) ** 2 + ((by1 + by2) - (ay1 + ay2)) ** 2
        return distance / 4 / (self.outer[0] ** 2 + self.outer[1] ** 2 + self.eps)


def _iou(pair: BoxPair) -> Tensor:
    return pair.iou


def _giou(pair: BoxPair) -> Tensor:
    """Rezatofighi et al. 2019, algorithm 1."""
    hull = pair.outer[0] * pair.outer[1] + pair.eps
    return pair.iou - (hull - pair.union) / hull


def _diou(pair: BoxPair) -> Tensor:
    """Zheng et al. 2020, eq. 7."""
    return pair.iou - pair.centre_term


def _ciou(pair: BoxPair) -> Tensor:
    """Zheng et al. 2020, eq. 8 to 11; the trade-off weight carries no gradient."""
    angles = [torch.atan(w / h) for w, h in (pair.a_sides, pair.b_sides)]
    v = 4 / pi**2 * (angles[1] - angles[0]) ** 2
    weight = (v / (v - pair.iou + (1 + pair.eps))).detach()
    return pair.iou - (pair.centre_term + v * weight)


def _sca(pair: BoxPair) -> Tensor:
    """Side overlap and corner alignment (Zheng et al., SCALoss, AAAI 2022) as its authors coded it: 1 for equal boxes,
    not clamped below. `alpha` weighs the corner distance."""
    eps = pair.eps
    side_overlap = pair.inner[0] / pair.outer[0] + pair.inner[1] / pair.outer[1]
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = pair.a, pair.b
    corners = _length(ax1 - bx1, ay1 - by1, eps) + _length(ax2 - bx2, ay2 - by2, eps)
    return side_overlap - pair.alpha * corners / (_length(*pair.outer, eps) + eps) - 1


def _length(dx: Tensor, dy: Tensor, eps: float) -> Tensor:
    return torch.sqrt((dx + eps) ** 2 + (dy + eps) ** 2)


KINDS: dict[str, Callable[[BoxPair], Tensor]] = {"iou": _iou, "giou": _giou, "diou": _diou, "ciou": _ciou, "sca": _sca}


def register_kind(name: str) -> Callable[[Callable[[BoxPair], Tensor]], Callable[[BoxPair], Tensor]]:
    """Decorator: make a function of a `BoxPair` -> (...) a kind of that name, for `--box-loss`. Raises `ValueError`
    for a name that is taken."""
    def declare(similarity: Callable[[BoxPair], Tensor]) -> Callable[[BoxPair], Tensor]:
        if KINDS.setdefault(name, similarity) is not similarity:
            raise ValueError(f"the box loss {name!r} is there already")
        return similarity

    return declare


def box_similarity(a: Tensor, b: Tensor, kind: str = "ciou", eps: float = 1e-7, alpha: float = 1.0) -> Tensor:
    """Similarity of boxes a (..., 4) and b (..., 4), xyxy in one unit, broadcast -> (...); 1 for equal boxes.

    kind: iou in [0, 1]; giou, diou in [-1, 1]; ciou in [-2, 1]; sca in (-5, 1], with `alpha` on its corner term.
    Symmetric in a and b. Computed in float32 where the boxes are half or bfloat16. Raises `UserError` for another kind.
    """
    choose("box loss", kind, KINDS)
    with full_precision(a.device):
        return KINDS[kind](BoxPair(upcast(a), upcast(b), eps, alpha))


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside: scores and losses lose too much in half precision."""
    known = torch.amp.is_autocast_available(device.type)  # not on "meta"
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def upcast(t: Tensor) -> Tensor:
    """Half and bfloat16 -> float32; float32 and float64 stay."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
