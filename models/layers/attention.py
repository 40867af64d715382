"""The attention unit of ASSD (Yi, Wu and Metaxas 2019, section 3.3): every pixel of a map reads all the others.

With queries q, keys k (B, d, N) and values v (B, c, N), rows of weights a = softmax over keys of q^T k, and v a^T is
added to the map, without a factor 1/sqrt(d). Three forms of the same function: the formula as it stands; one that takes
the queries in chunks and computes their weights again in the backward, so that no N x N matrix is kept; and torch's
fused kernel.

Legend: B images, c channels, d channels of a query, h, w pixels of a map, N = h * w.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.boxes.similarity import full_precision
from models.registry import choose, register

# Weights (B, queries of a chunk, N) computed at once: a few temporaries of this many numbers live at a time.
CHUNK_CPU, CHUNK_CUDA = 1 << 19, 1 << 25


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """(B, d, n) queries, (B, d, N) keys -> (B, n, N), each row summing to 1. In float32 (float64 stays): the logits
    have no bound, and 16 bits would round them by more than what tells two keys apart."""
    kind = torch.promote_types(query.dtype, torch.float32)
    with full_precision(query.device):
        return torch.matmul(query.to(kind).transpose(1, 2), key.to(kind)).softmax(-1)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula: (B, d, N), (B, d, N), (B, c, N) -> (B, c, N). Training keeps the (B, N, N) weights."""
    return torch.matmul(value, attention_weights(query, key).to(value.dtype).transpose(1, 2))


def chunked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `plain_attention`, in memory that grows with N, not with its square."""
    return _Chunked.apply(query, key, value)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `plain_attention`, by `torch.nn.functional.scaled_dot_product_attention`."""
    q, k, v = (t.transpose(1, 2).unsqueeze(1) for t in (query, key, value))  # (B, 1, N, d or c)
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).transpose(1, 2)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain_attention, "chunked": chunked_attention, "fused": fused_attention}


def _chunks(batch: int, pixels: int, device: torch.device) -> Iterator[slice]:
    """Slices of the queries."""
    budget = CHUNK_CPU if device.type == "cpu" else CHUNK_CUDA
    step = max(1, budget // max(1, batch * pixels))
    return (slice(start, start + step) for start in range(0, pixels, step))


class _Chunked(torch.autograd.Function):
    """Written out, as the backward of softmax needs the weights of one chunk of queries alone."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return torch.cat([plain_attention(query[..., part], key, value)
                          for part in _chunks(len(query), key.shape[-1], key.device)], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """grad (B, c, N) -> of query, key, value; each weight's gradient is the product of its value and `grad`, from
        which softmax takes the mean over the row."""
        query, key, value = ctx.saved_tensors
        queries = torch.empty_like(query)
        keys, values = (torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (key, value))
        for part in _chunks(len(query), key.shape[-1], key.device):
            weights, g = attention_weights(query[..., part], key), grad[..., part]  # (B, n, N), (B, c, n)
            values += torch.matmul(g, weights.to(g.dtype))
            slope = torch.matmul(g.transpose(1, 2), value).to(weights.dtype)  # (B, n, N)
            slope = slope.sub_((slope * weights).sum(-1, keepdim=True)).mul_(weights)
            queries[..., part] = torch.matmul(key.to(slope.dtype), slope.transpose(1, 2)).to(query.dtype)
            keys += torch.matmul(query[..., part].to(slope.dtype), slope)
        return queries, keys.to(key.dtype), values.to(value.dtype)


@register("SelfAttention")
class SelfAttention(nn.Module):
    """ASSD's attention unit: 1x1 convolutions without bias to queries and keys, 1/`reduction` as wide as the map, and
    to values; what they give is added to the map. form: of the computation, plain, chunked or fused; by default fused
    on a GPU and chunked elsewhere, equal up to rounding."""

    def __init__(self, c1: int, reduction: int = 8, form: str | None = None) -> None:
        super().__init__()
        self.form = form if form is None else choose("form", form, FORMS)
        narrow = max(1, c1 // reduction)
        self.query = nn.Conv2d(c1, narrow, 1, bias=False)
        self.key = nn.Conv2d(c1, narrow, 1, bias=False)
        self.value = nn.Conv2d(c1, c1, 1, bias=False)
        self.out_channels = c1

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> the same shape."""
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        return x + FORMS[self._form(x)](query, key, value).reshape(x.shape)

    def _form(self, x: Tensor) -> str:
        if torch.jit.is_tracing():  # exported files hold the formula
            return "plain"
        return self.form or ("fused" if x.is_cuda else "chunked")

    @torch.no_grad()
    def weights(self, x: Tensor, row: int, column: int) -> Tensor:
        """What one query pixel of the map (B, c, h, w) looks at: (B, h, w), summing to 1."""
        query, key = self.query(x[:, :, row, column, None, None]), self.key(x)
        return attention_weights(query.flatten(2), key.flatten(2)).reshape(len(x), *x.shape[2:])
