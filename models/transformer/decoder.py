"""The decoder of DINO-like transformers (Zhang et al. 2023): each layer refines boxes and reads the maps around them.

Legend: B images, Q queries, T tokens of all levels, L levels, C width, K classes.
"""

from math import log

from torch import Tensor, nn

from models.transformer.deformable import DeformableAttention
from models.transformer.encoder import FeedForward
from models.transformer.position import Layout, inverse_sigmoid, sine_boxes


class MLP(nn.Module):
    """Linear layers with ReLUs between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def box_head(width: int) -> MLP:
    """Features -> changes of a box before a sigmoid, none at first."""
    head = MLP(width, width, width, 4)
    nn.init.zeros_(head.layers[-1].weight)
    return head


def class_head(width: int, classes: int) -> nn.Linear:
    """Features -> class logits, at first of probability 0.01."""
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, -log(99))
    return head


class DecoderLayer(FeedForward):
    """Attention among queries, deformable attention to the maps, feed-forward network."""

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.cross_attn = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.self_attn.in_proj_weight)
        nn.init.xavier_uniform_(self.self_attn.out_proj.weight)

    def forward(self, x: Tensor, position: Tensor, references: Tensor, memory: Tensor, layout: Layout,
                blocked: Tensor | None) -> Tensor:
        """x, position (B, Q, C); references (B, Q, L, 4); memory (B, T, C); blocked (Q, Q), True where a query does not
        see another."""
        query = x + position
        x = self.norm2(x + self.self_attn(query, query, x, attn_mask=blocked, need_weights=False)[0])
        x = self.norm1(x + self.cross_attn(x + position, references, memory, layout.sizes, layout.padding))
        return self.norm3(x + self.feed_forward(x))


class Decoder(nn.Module):
    """Layers with a class head and a box head each, on one shared norm."""

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int, count: int,
                 classes: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(DecoderLayer(width, heads, levels, points, hidden) for _ in range(count))
        self.ref_point_head = MLP(2 * width, width, width)
        self.class_head = nn.ModuleList(class_head(width, classes) for _ in range(count))
        self.bbox_head = nn.ModuleList(box_head(width) for _ in range(count))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, references: Tensor, memory: Tensor, layout: Layout,
                blocked: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """queries (B, Q, C), references (B, Q, 4) as fractions of what shows the image, memory (B, T, C) -> of each
        layer class logits (B, Q, K) and boxes (B, Q, 4), cx, cy, w, h as fractions."""
        ratios = layout.ratios().repeat(1, 1, 2)[:, None]  # (B, 1, L, 4)
        logits, boxes, x = [], [], queries
        for layer, classify, locate in zip(self.layers, self.class_head, self.bbox_head, strict=True):
            seen = references.detach()[:, :, None] * ratios
            position = self.ref_point_head(sine_boxes(seen[:, :, 0], self.width // 2).to(x.dtype))
            x = layer(x, position, seen, memory, layout, blocked)
            normed = self.norm(x)
            logits.append(classify(normed))
            boxes.append((locate(normed).float() + inverse_sigmoid(references)).sigmoid())
            references = (locate(x).float() + inverse_sigmoid(references.detach())).sigmoid()
        return logits, boxes
