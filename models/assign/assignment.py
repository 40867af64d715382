"""What any assigner decided, in one form, so that it can be looked at beside others.

Legend: B images, M boxes of the fullest image, N points (anchors, priors) of all levels, P positives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Assignment(NamedTuple):
    """The positives of a batch, all (P,) or (P, 4).

    image; box: the row of its object among the M of `PackedTargets`; level: of the pyramid, 0 the finest, -1 where the
    head has none; weight: with which it counts in what the loss is divided by; guess: the predicted box, xyxy pixels of
    the frame; prior: the anchor's box there, None where a head has none; cost: of a one-to-one matching, else None.
    """

    image: Tensor
    box: Tensor
    level: Tensor
    weight: Tensor
    guess: Tensor
    prior: Tensor | None = None
    cost: Tensor | None = None

    @classmethod
    def join(cls, parts: "Sequence[Assignment]") -> "Assignment":
        """All positives of several levels."""
        return cls(*(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True)))


def of_points(box: Tensor, counts: Sequence[int], guesses: Tensor, weight: Tensor | None = None,
              priors: Tensor | None = None) -> Assignment:
    """box (B, N): the row that each point learns, -1 for none; counts: points of each level; guesses (B, N, 4) pixels;
    weight (B, N), by default 1; priors (N, 4) pixels."""
    image, point = (box >= 0).nonzero(as_tuple=True)
    level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(box.device)
    guess = guesses[image, point].float()
    return Assignment(image, box[image, point], level[point],
                      torch.ones_like(guess[:, 0]) if weight is None else weight[image, point], guess,
                      None if priors is None else priors[point].float())
