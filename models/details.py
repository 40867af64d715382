"""In what a checkpoint's layers differ from ours of the same rows: constants of batch norms, single activations.

They are kept in the config under `details`: `batch_norm`, [eps, momentum] of all 2-D batch norms, and `modules`, by
name, [eps, momentum] of one batch norm or the activation that one `act` is. A name begins with the row's number, or
with `head`, which keeps its name where a neck comes before it.
"""

from typing import Any

from torch import nn

from models.layers.conv import activation
from models.layers.resnet import FrozenBatchNorm

PLANAR_NORMS = (nn.BatchNorm2d, FrozenBatchNorm)  # a frozen one has no use for the momentum
NORMS = (*PLANAR_NORMS, nn.BatchNorm3d)


def apply_details(rows: nn.ModuleList, details: dict[str, Any] | None) -> None:
    """Apply `details` to the built rows; names that are not there, as behind another head, are ignored."""
    if not details:
        return
    if details.get("batch_norm"):
        for module in rows.modules():
            if isinstance(module, PLANAR_NORMS):
                module.eps, module.momentum = details["batch_norm"]
    present = {detail_name(key, rows): (key, module) for key, module in rows.named_modules() if key}
    for name, value in details.get("modules", {}).items():
        if name not in present:
            continue
        key, module = present[name]
        if isinstance(value, str):
            parent, _, last = key.rpartition(".")
            setattr(rows.get_submodule(parent), last, activation(value))
        elif isinstance(module, NORMS):
            module.eps, module.momentum = value


def detail_name(key: str, rows: nn.ModuleList) -> str:
    """The name of a module in `details`, from its name in the rows."""
    row, _, rest = key.partition(".")
    return f"head.{rest}" if row == str(len(rows) - 1) else key
