"""How alike two boxes are: one function with a table of kinds. A box loss is 1 - similarity; `models.losses.box_loss`
builds others on it.

Boxes are xyxy in any one unit; a is (..., 4), b is (..., 4), broadcast against each other. To add a kind write one
function of a `BoxPair` and decorate it with `@register_kind("name")`; a plugin may do so too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from math import pi

import torch
from torch import Tensor

from models.registry import choose

NWD_C = 12.8  # pixels; the mean absolute size of AI-TOD's objects (Wang et al. 2021)


class BoxPair:
    """Two sets of boxes and the quantities that the kinds share. Each tensor keeps the shape of its own box until the
    two must meet, so that what depends on one box only (sides, arctangents) is not computed per pair.

    unit: pixels per unit of the boxes, a number or (...); image_size: height and width in pixels of the image that they
    lie in, None where it is not known; nwd_c: the constant of `nwd` in pixels.
    """

    def __init__(self, a: Tensor, b: Tensor, eps: float = 1e-7, alpha: float = 1.0, unit: Tensor | float = 1.0,
                 image_size: tuple[int, int] | None = None, nwd_c: float = NWD_C) -> None:
        self.eps, self.alpha, self.unit, self.image_size, self.nwd_c = eps, alpha, unit, image_size, nwd_c
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
        return self.centre_distance / 4 / self.hull_diagonal

    @cached_property
    def hull_diagonal(self) -> Tensor:
        """The squared diagonal of the hull."""
        return self.outer[0] ** 2 + self.outer[1] ** 2 + self.eps

    @cached_property
    def centre_shift(self) -> tuple[Tensor, Tensor]:
        """Twice the way from a's centre to b's in x and y."""
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = self.a, self.b
        return (bx1 + bx2) - (ax1 + ax2), (by1 + by2) - (ay1 + ay2)

    @cached_property
    def centre_distance(self) -> Tensor:
        """Four times the squared distance of the centres."""
        dx, dy = self.centre_shift
        return dx**2 + dy**2


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


def _eiou(pair: BoxPair) -> Tensor:
    """Zhang et al., Focal and efficient IoU loss, 2021 (EIoU): the centres' distance and the sides' differences, each
    relative to the hull."""
    penalty = pair.centre_term
    for a, b, outer in zip(pair.a_sides, pair.b_sides, pair.outer, strict=True):
        penalty = penalty + (a - b) ** 2 / (outer**2 + pair.eps)
    return pair.iou - penalty


def _siou(pair: BoxPair) -> Tensor:
    """Gevorgyan, SIoU loss, 2022, eq. 1 to 13, with theta 4.

    The angle cost 1 - 2 sin^2(arcsin(s) - pi/4), s the sine of the centres' angle, is sin(2 arcsin(s)), which is
    2 |dx dy| / (dx^2 + dy^2): without arcsin, whose gradient is infinite at 1.
    """
    dx, dy = pair.centre_shift
    gamma = 2 - 2 * (dx * dy).abs() / (pair.centre_distance + pair.eps)
    distance, shape = 0.0, 0.0
    for shift, a, b, outer in zip((dx, dy), pair.a_sides, pair.b_sides, pair.outer, strict=True):
        distance = distance + 1 - torch.exp(-gamma * shift**2 / (4 * outer**2 + pair.eps))
        difference = (a - b).abs() / (torch.maximum(a, b) + pair.eps)
        shape = shape + (1 - torch.exp(-difference)) ** 4
    return pair.iou - (distance + shape) / 2


def _mpdiou(pair: BoxPair) -> Tensor:
    """Ma and Xu, MPDIoU, 2023: the squared distances of the top left and of the bottom right corners, relative to the
    squared diagonal of the image. Raises `ValueError` without an image size."""
    if pair.image_size is None:
        raise ValueError("mpdiou needs the size of the image")
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = pair.a, pair.b
    corners = (ax1 - bx1) ** 2 + (ay1 - by1) ** 2 + (ax2 - bx2) ** 2 + (ay2 - by2) ** 2
    height, width = pair.image_size
    return pair.iou - corners * (pair.unit**2 / (height**2 + width**2))


def _nwd(pair: BoxPair) -> Tensor:
    """Wang et al., A normalized Gaussian Wasserstein distance for tiny object detection, 2021, eq. 7 and 8: boxes as
    Gaussians of a quarter of their squared sides as variance. Not scale invariant: distances are in pixels."""
    sides = sum((a - b) ** 2 for a, b in zip(pair.a_sides, pair.b_sides, strict=True))
    squared = (pair.centre_distance + sides) / 4 * pair.unit**2
    return torch.exp(-torch.sqrt(squared + pair.eps) / pair.nwd_c)  # eps: the root has no gradient at 0


KINDS: dict[str, Callable[[BoxPair], Tensor]] = {
    "iou": _iou, "giou": _giou, "diou": _diou, "ciou": _ciou, "sca": _sca, "eiou": _eiou, "siou": _siou,
    "mpdiou": _mpdiou, "nwd": _nwd}


def register_kind(name: str) -> Callable[[Callable[[BoxPair], Tensor]], Callable[[BoxPair], Tensor]]:
    """Decorator: make a function of a `BoxPair` -> (...) a kind of that name, for `--box-loss`. Raises `ValueError`
    for a name that is taken, or that a mixture could be read from."""
    if "+" in name or name.startswith("inner-"):
        raise ValueError(f"the name {name!r}: '+' and 'inner-' make mixtures of kinds")

    def declare(similarity: Callable[[BoxPair], Tensor]) -> Callable[[BoxPair], Tensor]:
        if KINDS.setdefault(name, similarity) is not similarity:
            raise ValueError(f"the box loss {name!r} is there already")
        return similarity

    return declare


def box_similarity(a: Tensor, b: Tensor, kind: str = "ciou", eps: float = 1e-7, alpha: float = 1.0,
                   unit: Tensor | float = 1.0, image_size: tuple[int, int] | None = None) -> Tensor:
    """Similarity of boxes a (..., 4) and b (..., 4), xyxy in one unit, broadcast -> (...); 1 for equal boxes.

    kind: iou in [0, 1]; giou, diou in [-1, 1]; ciou in [-2, 1]; sca in (-5, 1], with `alpha` on its corner term; eiou
    in [-3, 1]; siou in [-2, 1]; mpdiou in [-2, 1] for boxes inside the image; nwd in [0, 1]. unit, image_size: of
    `BoxPair`, for nwd and mpdiou. Symmetric in a and b. Computed in float32 where the boxes are half or bfloat16.
    Raises `UserError` for another kind, and `ValueError` for mpdiou without an image size.
    """
    choose("box loss", kind, KINDS)
    with full_precision(a.device):
        return KINDS[kind](BoxPair(upcast(a), upcast(b), eps, alpha, unit, image_size))


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside: scores and losses lose too much in half precision."""
    known = torch.amp.is_autocast_available(device.type)  # not on "meta"
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def upcast(t: Tensor) -> Tensor:
    """Half and bfloat16 -> float32; float32 and float64 stay."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
