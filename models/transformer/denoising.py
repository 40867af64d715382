"""Contrastive denoising (Zhang et al. 2023, DINO, section 3.3): noised objects that the decoder learns to repair.

Of each group the first M slots of an image hold its objects with little noise, to be found, and the next M the same
with more, to be taken for background.

Legend: B images, M rows of the fullest image, G groups, S = 2 G M slots, Q other queries, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.transformer.position import inverse_sigmoid
from utils.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh


@dataclass(frozen=True)
class Draws:
    """What chance decides of each slot: whether its label changes and to which (B, S), sign of each corner's shift and
    its length (B, S, 4) in half sides, 0 to 1."""

    changes: Tensor
    label: Tensor
    sign: Tensor
    length: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, int], classes: int, chance: float, device: torch.device) -> "Draws":
        """shape: (B, S); chance: that a label is drawn anew, which may be the same again."""
        return cls(torch.rand(shape, device=device) < chance, torch.randint(classes, shape, device=device),
                   torch.randint(2, (*shape, 4), device=device) * 2 - 1, torch.rand((*shape, 4), device=device))


@dataclass(frozen=True)
class Slots:
    """labels (B, S) and boxes (B, S, 4), cx, cy, w, h as fractions, with noise; real (B, S), False in padding; rows:
    M."""

    labels: Tensor
    boxes: Tensor
    real: Tensor
    rows: int

    def references(self) -> Tensor:
        """(B, S, 4) what a decoder starts from, the middle of the image in padding."""
        return torch.where(self.real[..., None], inverse_sigmoid(self.boxes).sigmoid(), 0.5)


def group_count(rows: int, wanted: int) -> int:
    """Groups of `rows` objects, so that there are about `wanted` positive slots, at least one group."""
    return max(wanted * rows // max(rows * rows, 1), 1)


def noised(boxes: Tensor, labels: Tensor, valid: Tensor, groups: int, draws: Draws, scale: float = 1.0) -> Slots:
    """The slots of objects boxes (B, M, 4) cx, cy, w, h as fractions, labels, valid (B, M).

    A corner moves by up to half a side times `scale`, in a negative slot by half a side more.
    """
    rows = boxes.shape[1]
    boxes, labels, real = boxes.repeat(1, 2 * groups, 1), labels.repeat(1, 2 * groups), valid.repeat(1, 2 * groups)
    negative = torch.arange(2 * groups * rows, device=boxes.device) // max(rows, 1) % 2  # (S,)
    half = boxes[..., 2:].repeat(1, 1, 2) / 2
    shift = draws.sign * (draws.length + negative[:, None]) * half * scale
    moved = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + shift).clamp(0, 1))
    return Slots(torch.where(draws.changes, draws.label, labels), moved, real, rows)


def blocked_views(groups: int, rows: int, queries: int, device: torch.device) -> Tensor:
    """(S + Q, S + Q), True where the query of a row must not see that of a column: other queries see no slot, and a
    group sees no other; slots see the other queries, and padding is seen, as in the published code."""
    slots = 2 * rows * groups
    group = torch.arange(slots, device=device) // max(2 * rows, 1)
    blocked = torch.zeros(slots + queries, slots + queries, dtype=torch.bool, device=device)
    blocked[:slots, :slots] = group[:, None] != group
    blocked[slots:, :slots] = True
    return blocked
