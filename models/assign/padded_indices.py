"""Fixed-size lists of "the places where a mask is True", without asking a GPU how many there are.

On CUDA a shape that depends on data (nonzero, boolean indexing, .item()) stops the host until the device has caught
up, so lists are padded to a bound known from shapes alone. On the CPU the true count costs nothing to read, and padding
would be work; there the same functions return exactly what there is. Results are equal but for the padding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Elements of one (B, boxes, places) temporary of a pairwise step: small enough for the cache on a CPU, large enough to
# fill a GPU. About twelve such float32 temporaries live at once: 50 MB and 0.8 GB.
PAIRS_CPU, PAIRS_CUDA = 1 << 20, 1 << 24


class Rows(NamedTuple):
    """Places (P,) of a (B, S) mask: image, place in the image; `keep` is False for padding, whose indices are legal."""

    image: Tensor
    place: Tensor
    keep: Tensor


def sync_free(device: torch.device) -> bool:
    """Whether reading a value of a tensor stops nothing."""
    return device.type == "cpu"


def padded_nonzero(mask: Tensor, bound: int) -> Rows:
    """Where (B, S) `mask` is True, image by image in order. bound: the most True places any image can have."""
    if sync_free(mask.device):
        image, place = mask.nonzero(as_tuple=True)
        return Rows(image, place, torch.ones_like(image, dtype=torch.bool))
    place, keep = padded_table(mask, bound)
    image = torch.arange(len(mask), device=mask.device)[:, None].expand_as(place)
    return Rows(image.flatten(), place.flatten(), keep.flatten())


def padded_table(mask: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """As `padded_nonzero`, but padded to the same count in every image: places (B, K) and keep (B, K)."""
    batch, size = mask.shape
    places = torch.arange(size, device=mask.device).expand(batch, size)
    width = min(bound, size)
    if sync_free(mask.device):
        width = int(mask.sum(1).max()) if batch else 0
    elif width == size:
        return places, mask
    rank = torch.where(mask, mask.cumsum(1) - 1, width)  # (B, S); the unwanted all go to a last column that is cut off
    table = torch.zeros(batch, width + 1, dtype=torch.int64, device=mask.device).scatter_(1, rank, places)
    keep = torch.arange(width, device=mask.device) < mask.sum(1, keepdim=True)
    return table[:, :width] * keep, keep


def box_chunks(boxes: int, places: int, device: torch.device) -> Iterator[slice]:
    """Slices of `boxes` such that a (B, chunk, N) temporary stays in bounds. places: B * N of one box."""
    budget = PAIRS_CPU if sync_free(device) else PAIRS_CUDA
    step = max(1, budget // max(places, 1))
    for start in range(0, boxes, step):
        yield slice(start, start + step)


def resolve_claims(places: Tensor, claimed: Tensor, best_box: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Give each place to one box: to its only claimant, or, where several claim it, to the best of all boxes.

    places, claimed (B, M, k): the candidates of each box. best_box (B, size). Returns the owner (B, size), -1 for none,
    and contested (B, size), True where several boxes claimed the place.
    """
    boxes = torch.arange(places.shape[1], device=places.device)[None, :, None].expand_as(places)
    target = torch.where(claimed, places, size).flatten(1)  # (B, M*k); no claim -> a last place that is cut off
    shape = len(places), size + 1
    count = torch.zeros(shape, dtype=torch.int64, device=places.device)
    count = count.scatter_add_(1, target, torch.ones_like(target))[:, :size]
    owner = torch.full(shape, -1, dtype=torch.int64, device=places.device)
    owner = owner.scatter_reduce_(1, target, boxes.flatten(1), "amax")[:, :size]
    contested = count > 1
    return torch.where(contested, best_box, owner), contested


def ignored_cells(boxes: Tensor, ignore: Tensor, shape: tuple[int, int], stride: int) -> Tensor:
    """Cells whose centre lies inside a crowd region: (B, M, 4) pixel boxes, (B, M) bool -> (B, h, w) bool.

    A box is a product of two intervals, so the test over all boxes is one small matrix product.
    """
    height, width = shape
    x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(-2)  # (B, M, 1) each
    x = (torch.arange(width, device=boxes.device) + 0.5) * stride
    y = (torch.arange(height, device=boxes.device) + 0.5) * stride
    columns = (x > x1) & (x < x2) & ignore[..., None]  # (B, M, w)
    rows = (y > y1) & (y < y2)  # (B, M, h)
    return torch.matmul(rows.float().transpose(1, 2), columns.float()) > 0
