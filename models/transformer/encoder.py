"""The encoder of Salience DETR: layer by layer fewer tokens, the most salient ones, are refined (Hou et al. 2024, 3.2).

Legend: B images, T tokens of all levels, C width, n tokens picked, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.transformer.deformable import DeformableAttention
from models.transformer.position import Layout, centres
from models.transformer.salience import Picks

ATTENDED = 300  # picks of a layer that attend to each other


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between; the names stand in the layer that derives from it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).relu())


class EncoderLayer(FeedForward):
    """Attention among the most salient picks, deformable attention to all tokens, feed-forward network."""

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.pre_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.pre_norm = nn.LayerNorm(width)
        self.self_attn = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.pre_attention.in_proj_weight)
        nn.init.xavier_uniform_(self.pre_attention.out_proj.weight)

    def attend(self, picks: Tensor, positions: Tensor, score: Tensor) -> Tensor:
        """picks, positions (B, n, C); score (B, n): the best of them attend to each other."""
        best = score.topk(min(ATTENDED, score.shape[1]), 1).indices[..., None].expand(-1, -1, picks.shape[-1])
        chosen = picks.gather(1, best)
        query = chosen + positions.gather(1, best)
        chosen = self.pre_norm(chosen + self.pre_attention(query, query, chosen, need_weights=False)[0])
        return picks.scatter(1, best, chosen.to(picks.dtype))

    def refine(self, picks: Tensor, positions: Tensor, references: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """picks, positions (B, n, C), references (B, n, L, 2), value (B, T, C) -> picks."""
        seen = self.self_attn(picks + positions, references, value, layout.sizes, layout.padding)
        picks = self.norm1(picks + seen)
        return self.norm2(picks + self.feed_forward(picks))


class BackgroundEmbedding(nn.Module):
    """A learned vector for each cell, of a table for its row and one for its column; maps of more cells than the
    tables have stretch them."""

    def __init__(self, width: int, cells: int = 200) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(cells, width // 2)
        self.col_embed = nn.Embedding(cells, width // 2)
        for table in (self.row_embed, self.col_embed):
            nn.init.uniform_(table.weight)

    def forward(self, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(T, C) for all cells of all levels."""
        found = []
        for height, width in sizes:
            y = _first_rows(self.row_embed.weight, height)[:, None].expand(-1, width, -1)
            x = _first_rows(self.col_embed.weight, width)[None].expand(height, -1, -1)
            found.append(torch.cat((x, y), -1).flatten(0, 1))
        return torch.cat(found)


def _first_rows(table: Tensor, count: int) -> Tensor:
    """The first `count` rows of (R, C), or all of them stretched to `count`."""
    if count <= len(table):
        return table[:count]
    return nn.functional.interpolate(table.T[None], size=count, mode="linear", align_corners=True)[0].T


class Encoder(nn.Module):
    """Layers over ever fewer picks; `layer_ratios`: the fraction of all picks that each refines."""

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int,
                 layer_ratios: Sequence[float]) -> None:
        super().__init__()
        self.layer_ratios = tuple(layer_ratios)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, levels, points, hidden) for _ in layer_ratios)
        self.background_embedding = BackgroundEmbedding(width)

    def forward(self, tokens: Tensor, positions: Tensor, picks: Picks, layout: Layout, classify: nn.Module) -> Tensor:
        """tokens, positions (B, T, C) -> tokens; classify: (B, n, C) -> class logits, whose best weighs the salience.

        Every layer reads the tokens as they came, as the published code does.
        """
        output, width = tokens, tokens.shape[-1]
        references = centres(layout)[:, :, None] * layout.ratios()[:, None]  # (B, T, L, 2)
        picked = picks.index
        for layer, ratio in zip(self.layers, self.layer_ratios, strict=True):
            count = int(picks.index.shape[1] * ratio)
            picked = picks.index[:, :count]
            wide = picked[..., None].expand(-1, -1, width)
            query, where = output.gather(1, wide), positions.gather(1, wide)
            score = classify(query).amax(-1) * picks.score[:, :count]
            near = references.gather(1, picked[..., None, None].expand(-1, -1, *references.shape[2:]))
            query = layer.refine(layer.attend(query, where, score), where, near, tokens, layout)
            own = torch.arange(count, device=picked.device) < picks.count[:, None]  # (B, n)
            query = torch.where(own[..., None], query.to(output.dtype), output.gather(1, wide))
            output = output.scatter(1, wide, query)
        quiet = torch.ones_like(output[..., 0]).scatter(1, picked, 0.0)
        if layout.padding is not None:
            quiet = quiet.masked_fill(layout.padding, 0.0)
        return output + self.background_embedding(layout.sizes) * quiet[..., None]
