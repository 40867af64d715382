"""Which parameters are trained, and in which group of the optimiser."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from utils.errors import UserError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Split the trainable parameters into `decay` (weights), `no_decay` (norm weights, implicit tensors) and `bias`.

    Weights and biases are recognised by their names, also where a layer has several: `in_proj_weight` of attention,
    `weight_ih_l0` of an LSTM. Frozen parameters are in no group. Every norm layer is exempt from decay, BatchNorm3d
    too (the YOLOv7 fork of ssFPN decays that one; the effect is one vector of C numbers).
    """
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": [], "bias": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name.startswith("bias_") or name.endswith("bias"):
                groups["bias"].append(parameter)
            elif isinstance(module, NORMS) or not (name.startswith("weight_") or name.endswith("weight")):
                groups["no_decay"].append(parameter)
            else:
                groups["decay"].append(parameter)
    return groups


def freeze(model: nn.Module, layers: Sequence[int]) -> list[str]:
    """Freeze rows of the model by number (`[10]` means rows 0 to 9, as in YOLOv5); returns the frozen names.

    Their batch-norm statistics are still updated, as in YOLOv5. Raises `UserError` for rows that the model does not
    have, and where no trainable parameter remains.
    """
    rows = range(layers[0]) if len(layers) == 1 else layers
    numbers = [int(name.split(".")[1]) for name, _ in model.named_parameters() if name.startswith("model.")]
    last = max(numbers, default=0)
    beyond = [row for row in rows if row > last]
    if beyond:
        raise UserError(f"--freeze {' '.join(map(str, layers))}: this model has rows 0 to {last}; see python -m models",
                        "bad-value")
    prefixes = tuple(f"model.{row}." for row in rows)
    names = [name for name, _ in model.named_parameters() if name.startswith(prefixes)] if prefixes else []
    frozen = set(names)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(map(str, layers))}: no trainable parameter remains; freeze fewer rows",
                        "bad-value")
    return names
