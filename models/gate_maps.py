"""What a scale-sequence neck attends to: the mask of its gate, and how much of its new map each pyramid level gives."""

from collections.abc import Callable
from math import log2

import torch
from torch import Tensor, nn

from models.detector import Detector
from models.graph import Node
from models.hooks import run_hooked
from models.necks.forks import SpatialMask
from models.necks.gates import SpatialGate
from utils.errors import UserError


def neck_rows(model: Detector) -> list[tuple[Node, nn.Module]]:
    """The rows of a model that have a gate, or can tell what each level gives."""
    return [(node, layer) for node, layer in zip(model.model.nodes, model.model, strict=True)
            if gates_of(layer) or hasattr(layer, "contributions")]


@torch.no_grad()
def gate_maps(model: Detector, image: Tensor) -> dict[str, Tensor]:
    """Maps (h, w) of one image by name, at the resolution of the finest level that the neck reads.

    image (3, H, W): RGB in the model's frame, uint8 or float in [0, 1]. `gate`: the spatial mask, 0 to 1, which weighs
    every level; `P3`, `P4`, ...: the share of each level in what the neck computes at a pixel, so they sum to 1. Where
    a model has several necks, the number of the row stands before: `12_gate`. Necks of other repositories that are
    written as single rows have the gate alone. Raises `UserError` for a model without such a neck.
    """
    rows = neck_rows(model)
    if not rows:
        raise UserError(f"{model.config['source']}: has no scale-sequence neck; take a model such as yolov8n-assn",
                        code="no-neck")
    found: dict[str, Tensor] = {}
    handles = []
    for node, layer in rows:
        prefix = f"{node.index}_" if len(rows) > 1 else ""
        handles += [gate.register_forward_hook(_note_gate(found, prefix)) for gate in gates_of(layer)]
        if hasattr(layer, "contributions"):
            handles.append(layer.register_forward_pre_hook(_note_levels(found, prefix, level_names(model, node))))
    run_hooked(model, image, handles)
    return found


def gates_of(layer: nn.Module) -> list[nn.Module]:
    """The parts of a row that give a spatial mask (B, 1, h, w) in (0, 1)."""
    return [unit for unit in layer.modules() if isinstance(unit, SpatialGate | SpatialMask)]


def level_names(model: Detector, node: Node) -> list[str]:
    """The names of the levels that a row reads: P3 for a stride of 8."""
    strides = [model.model.nodes[source].output(index)[1] for source, index in zip(node.sources, node.maps,
                                                                                     strict=True)]
    return [f"P{log2(stride):g}" for stride in strides]


def _note_gate(found: dict[str, Tensor], prefix: str) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], mask: Tensor) -> None:
        found[f"{prefix}gate"] = mask[0, 0].float()
    return hook


def _note_levels(found: dict[str, Tensor], prefix: str, names: list[str]) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[list[Tensor], ...]) -> None:
        parts = torch.stack([part[0].float() for part in layer.contributions(inputs[0])])  # (levels, h, w)
        shares = parts / parts.sum(0).clamp(min=1e-12)
        found.update({f"{prefix}{name}": share for name, share in zip(names, shares, strict=True)})
    return hook
