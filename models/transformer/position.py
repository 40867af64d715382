"""Where tokens lie: padding of each level, sine embeddings of positions and boxes, proposals, reference points.

Legend: B images, H, W pixels of the frame, L levels, h, w cells of a level, T = sum of h*w tokens of all levels, Q
queries, F numbers of an axis' embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Layout:
    """How the tokens of a batch lie: (height, width) of each level; rows, columns (B, h), (B, w) of each, True where
    they show the image; padding (B, T) True where a token does not, None where there is no padding at all."""

    sizes: list[tuple[int, int]]
    rows: list[Tensor]
    columns: list[Tensor]
    padding: Tensor | None

    @classmethod
    def of(cls, pyramid: Sequence[Tensor], image_size: tuple[int, int], content: Tensor | None) -> "Layout":
        """content (B, 2): height and width in pixels of the image in the frame, at its top left; None: the whole.

        A cell counts as the pixel that a nearest resize of the frame to its map would take.
        """
        sizes = [tuple(level.shape[2:]) for level in pyramid]
        batch, device = pyramid[0].shape[0], pyramid[0].device
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for size in sizes:
            for axis in (0, 1):
                cells = torch.arange(size[axis], device=device)
                pixel = (cells * (image_size[axis] / size[axis])).floor()
                shown = (pixel[None] < content[:, axis, None]) if content is not None else torch.ones(
                    batch, size[axis], dtype=torch.bool, device=device)
                sides[axis].append(shown)
        padding = None
        if content is not None:
            padding = torch.cat([~(r[:, :, None] & c[:, None]).flatten(1) for r, c in zip(*sides, strict=True)], 1)
        return cls(sizes, *sides, padding)

    @property
    def counts(self) -> list[int]:
        """Tokens of each level."""
        return [h * w for h, w in self.sizes]

    def shown(self) -> Tensor:
        """(B, L, 2) float: rows and columns of each level that show the image."""
        counts = [torch.stack((r.sum(1), c.sum(1)), -1) for r, c in zip(self.rows, self.columns, strict=True)]
        return torch.stack(counts, 1).float()

    def ratios(self) -> Tensor:
        """(B, L, 2) as (x, y): the fraction of each level's width and height that shows the image."""
        shown = self.shown()
        return (shown / shown.new_tensor(self.sizes)).flip(-1)


def flatten(pyramid: Sequence[Tensor]) -> Tensor:
    """Levels (B, C, h, w) -> tokens (B, T, C)."""
    return torch.cat([level.flatten(2) for level in pyramid], 2).transpose(1, 2)


def unflatten(tokens: Tensor, sizes: Sizes) -> list[Tensor]:
    """Tokens (B, T, C) -> levels (B, C, h, w)."""
    parts = tokens.split([h * w for h, w in sizes], 1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def frequencies(count: int, temperature: float, device: torch.device) -> Tensor:
    """(F,): by what each number of a sine embedding divides its angle, equal for a sine and its cosine."""
    index = torch.arange(count, dtype=torch.float32, device=device)
    return temperature ** (2 * (index / 2).floor() / count)


def sine(values: Tensor, divisors: Tensor) -> Tensor:
    """(...) angles -> (..., F): sines and cosines in turn."""
    angles = values[..., None] / divisors
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(-2)


def sine_positions(layout: Layout, count: int, temperature: float) -> list[Tensor]:
    """Of each level (B, h*w, 2F): the embedding of (y, x), fractions of what shows the image times 2 pi."""
    found = []
    for rows, columns in zip(layout.rows, layout.columns, strict=True):
        divisors = frequencies(count, temperature, rows.device)
        # of the cells in padding, the counts of the image's last row or column stand, as a sum over the map gives
        axes = [((side.cumsum(1) - 0.5) / (side.sum(1, keepdim=True) + 1e-6) * 2 * pi)
                for side in (rows.long(), columns.long())]
        y, x = (sine(axis, divisors) for axis in axes)  # (B, h, F), (B, w, F)
        both = torch.cat((y[:, :, None].expand(-1, -1, x.shape[1], -1), x[:, None].expand(-1, y.shape[1], -1, -1)), -1)
        found.append(both.flatten(1, 2))
    return found


def sine_boxes(boxes: Tensor, count: int, temperature: float = 10_000.0) -> Tensor:
    """(B, Q, 4) cx, cy, w, h as fractions -> (B, Q, 4F): the embeddings of y, x, w, h."""
    parts = sine(boxes * 2 * pi, frequencies(count, temperature, boxes.device))  # (B, Q, 4, F)
    return parts[..., [1, 0, 2, 3], :].flatten(-2)


def centres(layout: Layout) -> Tensor:
    """(B, T, 2): (x, y) of each token's cell, fractions of what shows the image; above 1 in padding."""
    found = []
    for (height, width), shown in zip(layout.sizes, layout.shown().unbind(1), strict=True):
        y, x = (torch.arange(side, device=shown.device) + 0.5 for side in (height, width))
        y, x = y / shown[:, :1], x / shown[:, 1:]  # (B, h), (B, w)
        found.append(torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), -1
                                 ).flatten(1, 2))
    return torch.cat(found, 1)


def proposals(layout: Layout, least: float = 0.05) -> tuple[Tensor, Tensor]:
    """Boxes that a two-stage transformer starts from, one for each token, with sides `least` * 2^level.

    Returns (B, T, 4) cx, cy, w, h before a sigmoid, infinite where there is none, and (B, T), True where there is one:
    a token outside of padding whose four numbers lie between 0.01 and 0.99.
    """
    points = centres(layout)
    side = torch.cat([points.new_full((n,), least * 2**level) for level, n in enumerate(layout.counts)])
    boxes = torch.cat((points, side[None, :, None].expand(len(points), -1, 2)), -1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
    if layout.padding is not None:
        valid = valid & ~layout.padding
    return torch.log(boxes / (1 - boxes)).masked_fill(~valid[..., None], float("inf")), valid


def inverse_sigmoid(x: Tensor, least: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) with both kept above `least`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=least) / (1 - x).clamp(min=least))
