"""How a neck starts: as published, or as nothing (`start: identity`), so that the detector begins as its base.

A neck that can start as nothing has a method `start_as_identity()`: it sets its own weights and returns the slice of
its output channels that then holds the finest level as it came, all of them, the first or the last ones.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.graph import Graph
from utils.errors import UserError

STARTS = ("identity", "published")


def starts_as_identity(config: dict[str, Any]) -> bool:
    """Whether a resolved config has a neck whose option `start` is "identity"."""
    return bool(config["neck"]) and config["neck"].get("start") == "identity"


def zero_affine(norm: nn.Module, act: nn.Module, layer: str) -> None:
    """Make a branch that ends in this norm and activation give zeros, and learn: its last affine map becomes 0, as that
    of residual blocks in Goyal et al. 2017, section 5.1.

    layer: for the message. Raises `UserError` for an activation that is not 0 at 0, or passes no gradient there (ReLU).
    """
    x = torch.zeros((), requires_grad=True, device="cpu")
    with torch.enable_grad():
        y = act(x + 0)  # a copy, for activations in place
        y.backward()
    if y.item() != 0 or x.grad.item() == 0:
        why = "is not 0 at 0" if y.item() else "passes no gradient at 0, so that the branch would stay 0"
        raise UserError(f"{layer}: cannot start as identity with {act}, which {why}; say merge: concat or start: "
                        "published", code="bad-value")
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)


def start_as_base(graph: Graph, base: Graph) -> str:
    """Set the weights of a graph with a neck so that its output is that of `base`, the same rows without the neck.

    The rows before the neck and the head take the base's weights. The neck's branch starts at zero where it is added.
    Where it is concatenated, the head may be wider than the base's: the base's weights take the places of the channels
    that they had, the columns by which their rows would read new channels are zero, and new rows keep their values.
    Both learn from the first step on. Returns in a few words which of the two it is. Raises `UserError` for a neck that
    cannot.
    """
    neck, last = graph[-2], len(base) - 1
    if not hasattr(neck, "start_as_identity"):
        raise UserError(f"start: identity: {type(neck).__name__} does not define start_as_identity (docs/extending.md);"
                        " say start: published", code="not-supported")
    kept = neck.start_as_identity()
    for number in range(last):
        graph[number].load_state_dict(base[number].state_dict())
    tensors = graph[-1].state_dict()
    with torch.no_grad():
        for name, original in base[last].state_dict().items():
            _embed(tensors[name], original, at_end=kept.start > 0)
    added = neck.out_channels - (kept.stop - kept.start)
    return f"the head reads its {added} new channels through zeros" if added else "what it adds is zero"


def _embed(target: Tensor, original: Tensor, at_end: bool) -> None:
    """Write a tensor into one that is larger along some axes, at their end or start. The entries of its rows at new
    columns become 0; new rows keep theirs."""
    place = tuple(slice(wide - narrow, None) if at_end else slice(0, narrow)
                  for wide, narrow in zip(target.shape, original.shape, strict=True))
    if target.dim() > 1:
        target[place[0]] = 0
    target[place] = original
