"""What a loss is divided by, where several processes compute one loss together."""

from collections.abc import Callable

import torch
from torch import Tensor

# Sums a tensor over all processes, such as `utils.distributed.group.Group.sum`.
AllReduce = Callable[[Tensor], Tensor]


def normalisers(amounts: Tensor, images: int, all_reduce: AllReduce | None) -> tuple[Tensor, Tensor | int]:
    """`exchange` without further sums."""
    return exchange(amounts, images, amounts[:0], all_reduce)[:2]


def exchange(amounts: Tensor, images: int, sums: Tensor,
             all_reduce: AllReduce | None) -> tuple[Tensor, Tensor | int, Tensor]:
    """amounts (n,) that terms are means over, each taken as 1 at least; the images of the batch; sums (k,) as they are.

    With `all_reduce` all are those of the batches of all processes, so that the losses of all processes add up to the
    loss of one process that holds the whole batch. One exchange; nothing waits for a GPU.
    """
    if all_reduce is None:
        return amounts.clamp(min=1), images, sums
    total = all_reduce(torch.cat((amounts, amounts.new_full((1,), images), sums)))
    n = len(amounts)
    return total[:n].clamp(min=1), total[n], total[n + 1:]
