"""Which tokens are worth refining: the salience of Salience DETR (Hou et al. 2024, section 3.2), coarse to fine.

Legend: B images, C width, h, w cells of a level, n tokens picked, T tokens of all levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.transformer.position import Layout


class SaliencePredictor(nn.Module):
    """Tokens of a level (B, h*w, C) -> a logit each (B, h*w, 1), one half of the channels seen as their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.layer2 = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width // 4),
                                    nn.GELU(), nn.Linear(width // 4, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        own, shared = self.layer1(tokens).chunk(2, -1)
        return self.layer2(torch.cat((own, shared.mean(1, keepdim=True).expand_as(own)), -1))


@dataclass(frozen=True)
class Picks:
    """Tokens by falling salience: index (B, n) among all tokens, score (B, n) their logits; count (B,): how many of
    them are an image's own, the rest fill up to the batch's most."""

    index: Tensor
    score: Tensor
    count: Tensor


def predict_salience(predictor: nn.Module, levels: Sequence[Tensor], alpha: Tensor, layout: Layout) -> list[Tensor]:
    """Salience logits (B, 1, h, w) of each level; levels: tokens (B, h*w, C) of each, finest first.

    From the coarsest on; the logits of a level weigh the tokens of the next finer one by `alpha` (L - 1,).
    """
    found: list[Tensor] = []
    for level in reversed(range(len(levels))):
        tokens, size = levels[level], layout.sizes[level]
        if found:
            above = F.interpolate(found[0], size=size, mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)
            tokens = tokens + tokens * above * alpha[level]
        found.insert(0, predictor(tokens).transpose(1, 2).unflatten(2, size))
    return found


def pick_tokens(salience: Sequence[Tensor], layout: Layout, ratios: Sequence[float]) -> Picks:
    """The most salient tokens: of each level its fraction `ratios` of those that show the image."""
    rows, columns = layout.shown().unbind(-1)  # (B, L)
    share = (rows * columns * rows.new_tensor(ratios)).int()  # (B, L)
    whole = [int(n * ratio) for n, ratio in zip(layout.counts, ratios, strict=True)]
    most = whole if layout.padding is None else share.amax(0).tolist()
    index, score, start = [], [], 0
    padding = [None] * len(whole) if layout.padding is None else layout.padding.split(layout.counts, 1)
    for logits, hidden, count, tokens in zip(salience, padding, most, layout.counts, strict=True):
        flat = logits.flatten(1)
        if hidden is not None:
            flat = torch.where(hidden, flat.min(), flat)
        best = flat.topk(max(count, 1), 1)
        index.append(best.indices + start)
        score.append(best.values)
        start += tokens
    scores = torch.cat(score, 1)
    order = scores.sort(1, descending=True)
    return Picks(torch.cat(index, 1).gather(1, order.indices), order.values, share.sum(1))
