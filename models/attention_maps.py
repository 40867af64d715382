"""What the attention units of a detector look at, as in figure 3 of ASSD (Yi, Wu and Metaxas 2019)."""

from math import ceil

import torch
from torch import Tensor

from models.detector import Detector
from models.hooks import run_hooked
from models.layers.attention import SelfAttention
from utils.errors import UserError


def attention_rows(model: Detector) -> list[tuple[str, SelfAttention]]:
    """The attention units of a model with the names of their rows."""
    return [(node.name or str(node.index), unit) for node, row in zip(model.model.nodes, model.model, strict=True)
            for unit in row.modules() if isinstance(unit, SelfAttention)]


@torch.no_grad()
def attention_maps(model: Detector, image: Tensor, point: tuple[float, float]) -> dict[str, Tensor]:
    """The weights (h, w) that the cell of one point gives to all cells of a map, by the name of each attention row;
    they sum to 1.

    image (3, H, W): RGB in the model's frame, uint8 or float in [0, 1]; point: x and y in its pixels. A unit that
    several maps share has them all, as `name`, `name.1`, ... Raises `UserError` for a model without attention, and for
    a point outside the image.
    """
    height, width = image.shape[1:]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise UserError(f"point {point[0]:g}, {point[1]:g} is outside the image of {width} x {height} pixels",
                        code="bad-value")
    found: dict[str, Tensor] = {}

    def note(name: str):
        def hook(layer: SelfAttention, inputs: tuple[Tensor, ...]) -> None:
            rows, columns = inputs[0].shape[2:]
            row, column = int(point[1] / ceil(height / rows)), int(point[0] / ceil(width / columns))
            again = sum(other.partition(".")[0] == name for other in found)
            key = f"{name}.{again}" if again else name
            found[key] = layer.weights(inputs[0], min(row, rows - 1), min(column, columns - 1))[0]
        return hook

    handles = [unit.register_forward_pre_hook(note(name)) for name, unit in attention_rows(model)]
    if not handles:
        raise UserError(f"{model.config['source']}: no row is a SelfAttention; take a model such as assd300",
                        code="no-attention")
    run_hooked(model, image, handles)
    return found
