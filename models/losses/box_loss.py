"""Box losses by name: a similarity of `models.boxes.similarity`, mixtures of them, and weights on them. docs/losses.md
has the formulas, and how each behaves at tiny sizes.

    KIND          1 - similarity                          inner-KIND   the same with the IoU of scaled boxes (Inner-IoU)
    KIND+nwd      1 - the weighted mean of both           focal-eiou   IoU^gamma * (1 - EIoU)
    wiou-v1, wiou-v3 (also called wiou)                   attention and focusing coefficients times 1 - IoU

Legend: P pairs of a predicted and a true box.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from models.boxes.similarity import KINDS, NWD_C, BoxPair, upcast
from utils.errors import UserError, nearest, shown

INNER, WITH_NWD = "inner-", "+nwd"
WEIGHTED = ("focal-eiou", "wiou", "wiou-v1", "wiou-v3")


@dataclass(frozen=True)
class BoxOptions:
    """Constants of the box losses that have some.

    nwd_c: pixels (NWD); nwd_weight: of NWD in a mixture; inner_ratio: by which Inner-IoU scales the sides; eiou_gamma:
    exponent of focal-eiou; wiou_alpha, wiou_delta: of the focusing coefficient of WIoU v3; wiou_momentum: of its
    running mean. docs/losses.md says where each default is from.
    """

    nwd_c: float = NWD_C
    nwd_weight: float = 0.5
    inner_ratio: float = 1.2
    eiou_gamma: float = 0.5
    wiou_alpha: float = 1.9
    wiou_delta: float = 3.0
    wiou_momentum: float = 0.01


class BoxLoss:
    """The box loss of a name. reads: the options of `BoxOptions` that it depends on. Raises `UserError` for a name that
    is none, and for options that it does not read or that are no numbers."""

    def __init__(self, name: str, options: dict[str, float] | None = None) -> None:
        self.similarity, self.weight, self.reads = _parse(str(name))
        unread = [key for key in options or {} if key not in self.reads]
        if unread:
            hint = nearest(str(unread[0]), [f.name for f in fields(BoxOptions)])
            cure = f"drop it, or choose a box loss that does{'; ' + hint if hint else ''}"
            raise UserError(f"box_options: box loss {name!r} does not read {shown(unread[0])}; {cure}",
                            code="flag-without-effect")
        bad = [key for key, value in (options or {}).items() if not isinstance(value, int | float)]
        if bad:
            raise UserError(f"box_options: {bad[0]}: expected a number, got {shown(options[bad[0]])}", code="bad-value")
        self.options = BoxOptions(**(options or {}))

    def new_mean(self) -> "MeanIoULoss | None":
        """The state of a new run, None where this loss has none."""
        return MeanIoULoss(self.options.wiou_momentum) if "wiou_momentum" in self.reads else None

    def __call__(self, predicted: Tensor, truth: Tensor, unit: Tensor | float = 1.0,
                 image_size: tuple[int, int] | None = None, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss (P,) and similarity (P,) of boxes (P, 4) xyxy in units of `unit` pixels, a number or (P,).

        The similarity is what the loss is 1 minus of, before any weight: the objectness target of anchor heads.
        image_size: height and width in pixels; mean: of 1 - IoU, None: that of a new run.
        """
        pair = BoxPair(upcast(predicted), upcast(truth), unit=unit, image_size=image_size, nwd_c=self.options.nwd_c)
        similarity = self.similarity(pair, self.options)
        loss = 1 - similarity
        return (loss if self.weight is None else loss * self.weight(pair, self.options, mean)), similarity


class MeanIoULoss(nn.Module):
    """The running mean of 1 - IoU over the positives of training batches, 1 at first; part of a head's state."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.ones(()))

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        """Move towards the mean of a batch; sums (2,): of the positives' weighted losses, and of their weights. Does
        nothing outside of training, and for a batch without positives."""
        if self.training:
            total, weight = sums.to(self.value.dtype)
            step = self.momentum * (weight > 0)
            self.value.lerp_(total / weight.clamp(min=torch.finfo(weight.dtype).tiny), step.to(weight.dtype))


def loss_sums(similarity: Tensor, weight: Tensor) -> Tensor:
    """(2,) for `MeanIoULoss.update`: sums over pairs of 1 - similarity times weight (P,), and of the weight."""
    return torch.stack((((1 - similarity.detach()) * weight).sum(), weight.sum()))


def box_loss_names() -> list[str]:
    """The names without the mixtures."""
    return [*KINDS, *WEIGHTED]


Similarity = Callable[[BoxPair, BoxOptions], Tensor]
Weight = Callable[[BoxPair, BoxOptions, Tensor | None], Tensor]


def _parse(name: str) -> tuple[Similarity, Weight | None, tuple[str, ...]]:
    """Similarity, weight and the options that they read."""
    if name == "focal-eiou":
        return partial(_plain, "eiou"), _focal_weight, ("eiou_gamma",)
    if name == "wiou-v1":
        return partial(_plain, "iou"), _distance_weight, ()
    if name in ("wiou", "wiou-v3"):
        return partial(_plain, "iou"), _focusing_weight, ("wiou_alpha", "wiou_delta", "wiou_momentum")
    kind, mixed = name.removesuffix(WITH_NWD), name.endswith(WITH_NWD)
    kind, inner = kind.removeprefix(INNER), kind.startswith(INNER)
    if kind not in KINDS or (kind == "nwd" and (inner or mixed)):
        raise _no_such_loss(name, kind)
    similarity, reads = partial(_plain, kind), ("nwd_c",) if kind == "nwd" else ()
    if inner:
        similarity, reads = partial(_inner, similarity), ("inner_ratio",)
    if mixed:
        similarity, reads = partial(_with_nwd, similarity), (*reads, "nwd_c", "nwd_weight")
    return similarity, None, reads


def _no_such_loss(name: str, kind: str) -> UserError:
    parts = [k for k in KINDS if k != "nwd"]
    if kind in ("nwd", *WEIGHTED):
        return UserError(f"box_loss {name!r}: inner-KIND and KIND+nwd are made of one of {', '.join(parts)}",
                         code="unknown-name")
    made = [f"inner-{k}" for k in parts] + [f"{k}+nwd" for k in parts] + [f"inner-{k}+nwd" for k in parts]
    hint = nearest(name, [*box_loss_names(), *made])
    return UserError(f"box_loss {name!r} is not one of {', '.join(box_loss_names())}, inner-KIND, KIND+nwd"
                     f"{'; ' + hint if hint else ''}", code="unknown-name")


def _plain(kind: str, pair: BoxPair, options: BoxOptions) -> Tensor:
    return KINDS[kind](pair)


def _with_nwd(similarity: Similarity, pair: BoxPair, options: BoxOptions) -> Tensor:
    """The weighted mean of a similarity and NWD."""
    share = options.nwd_weight
    return (1 - share) * similarity(pair, options) + share * KINDS["nwd"](pair)


def _inner(similarity: Similarity, pair: BoxPair, options: BoxOptions) -> Tensor:
    """Zhang et al., Inner-IoU, 2023: L + IoU - IoU of both boxes with their sides scaled about their centres."""
    scaled = BoxPair(*(_scaled(box, options.inner_ratio) for box in (pair.a, pair.b)), eps=pair.eps)
    return similarity(pair, options) - pair.iou + scaled.iou


def _scaled(box: tuple[Tensor, ...], ratio: float) -> Tensor:
    """Sides x1 y1 x2 y2 of boxes -> (..., 4), the boxes scaled about their centres."""
    x1, y1, x2, y2 = box
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * (ratio / 2), (y2 - y1) * (ratio / 2)
    return torch.stack((x - w, y - h, x + w, y + h), -1)


def _focal_weight(pair: BoxPair, options: BoxOptions, mean: Tensor | None) -> Tensor:
    """IoU^gamma (Zhang et al. 2021, Focal-EIoU), without gradient: with one, boxes of a low IoU would be pushed away.
    """
    return pair.iou.detach().clamp(min=0) ** options.eiou_gamma


def _distance_weight(pair: BoxPair, options: BoxOptions, mean: Tensor | None) -> Tensor:
    """exp(squared centre distance / squared hull diagonal), the diagonal without gradient (Tong et al. 2023, WIoU v1).
    """
    return torch.exp(pair.centre_distance / 4 / pair.hull_diagonal.detach())


def _focusing_weight(pair: BoxPair, options: BoxOptions, mean: Tensor | None) -> Tensor:
    """The weight of v1 times beta / (delta * alpha^(beta - delta)), beta = (1 - IoU) / its running mean, without
    gradient (Tong et al. 2023, WIoU v3)."""
    loss = (1 - pair.iou.detach()).clamp(min=0)
    beta = loss if mean is None else loss / mean.to(loss.dtype).clamp(min=1e-6)
    # alpha^(delta - beta) as a factor: it vanishes for large beta, where the divisor would overflow
    focus = beta / options.wiou_delta * options.wiou_alpha ** (options.wiou_delta - beta)
    return _distance_weight(pair, options, mean) * focus
