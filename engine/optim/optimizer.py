"""The optimisers, by default as YOLOv5, YOLOv7 and YOLOv8 train."""

from typing import Any

import torch

from utils.errors import UserError, nearest

OPTIMIZERS = ("auto", "SGD", "Adam", "AdamW")


def auto_optimizer(num_classes: int, iterations: int) -> tuple[str, float, float, float]:
    """(name, lr0, momentum, warm-up bias lr) of YOLOv8's "auto": AdamW for short runs, SGD above 10,000 iterations."""
    if iterations > 10_000:
        return "SGD", 0.01, 0.9, 0.0
    return "AdamW", round(0.002 * 5 / (4 + num_classes), 6), 0.9, 0.0


def build_optimizer(groups: list[dict[str, Any]], name: str, lr: float, momentum: float,
                    nesterov: bool = True) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over groups of parameters (`engine.optim.groups.optimizer_groups`); nesterov: of SGD."""
    if name not in OPTIMIZERS[1:]:
        raise UserError(f"--optimizer {name}: {nearest(name, list(OPTIMIZERS)) or 'known: ' + ', '.join(OPTIMIZERS)}",
                        "bad-value")
    groups = [dict(group) for group in groups]  # torch writes its defaults into them
    # one kernel for all parameters; the CPU build gains nothing
    fused = any(p.is_cuda for group in groups for p in group["params"])
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=fused)
    kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
