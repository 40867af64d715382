"""The optimisers of the YOLO line, as YOLOv5, YOLOv7 and YOLOv8 train."""

import torch
from torch import nn

from engine.optim.groups import parameter_groups
from utils.errors import UserError, nearest

OPTIMIZERS = ("auto", "SGD", "Adam", "AdamW")


def auto_optimizer(num_classes: int, iterations: int) -> tuple[str, float, float, float]:
    """(name, lr0, momentum, warm-up bias lr) of YOLOv8's "auto": AdamW for short runs, SGD above 10,000 iterations."""
    if iterations > 10_000:
        return "SGD", 0.01, 0.9, 0.0
    return "AdamW", round(0.002 * 5 / (4 + num_classes), 6), 0.9, 0.0


def build_optimizer(model: nn.Module, name: str, lr: float, momentum: float,
                    weight_decay: float) -> torch.optim.Optimizer:
    """SGD (Nesterov), Adam or AdamW over the three groups, the bias group last; `weight_decay` acts on `decay` only."""
    if name not in OPTIMIZERS[1:]:
        raise UserError(f"--optimizer {name}: {nearest(name, list(OPTIMIZERS)) or 'known: ' + ', '.join(OPTIMIZERS)}",
                        "bad-value")
    split = parameter_groups(model)
    groups = [{"params": split["decay"], "weight_decay": weight_decay, "kind": "decay"},
              {"params": split["no_decay"], "weight_decay": 0.0, "kind": "no_decay"},
              {"params": split["bias"], "weight_decay": 0.0, "kind": "bias"}]
    fused = any(p.is_cuda for p in split["decay"])  # one kernel for all parameters; the CPU build gains nothing
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
