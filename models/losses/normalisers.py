"""What a loss is divided by, where several processes compute one loss together."""

from collections.abc import Callable

import torch
from torch import Tensor

# Adds a tensor up over all processes, such as `utils.distributed.group.Group.sum`.
Share = Callable[[Tensor], Tensor]


def normalisers(amounts: Tensor, images: int, share: Share | None) -> tuple[Tensor, Tensor | int]:
    """amounts (n,) that terms are means over, each taken as 1 at least, and the images of the batch.

    With `share` both are those of the batches of all processes, so that the losses of all processes add up to the loss
    of one process that holds the whole batch. One exchange; nothing waits for a GPU.
    """
    if share is None:
        return amounts.clamp(min=1), images
    total = share(torch.cat((amounts, amounts.new_full((1,), images))))
    return total[:-1].clamp(min=1), total[-1]
