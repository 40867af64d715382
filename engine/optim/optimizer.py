"""Optimiser, parameter groups and learning-rate schedule of the YOLO line, as YOLOv5, YOLOv7 and YOLOv8 train."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from utils.errors import UserError, nearest

NOMINAL_BATCH = 64  # the batch that learning rates and weight decay are quoted for
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
OPTIMIZERS = ("auto", "SGD", "Adam", "AdamW")


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Split the trainable parameters into `decay` (weights), `no_decay` (norm weights, implicit tensors) and `bias`.

    Weights and biases are known by their names, also where a layer has several: `in_proj_weight` of attention,
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


def auto_optimizer(num_classes: int, iterations: int) -> tuple[str, float, float, float]:
    """(name, lr0, momentum, warm-up bias lr) of YOLOv8's "auto": AdamW for short runs, SGD above 10,000 iterations."""
    if iterations > 10_000:
        return "SGD", 0.01, 0.9, 0.0
    return "AdamW", round(0.002 * 5 / (4 + num_classes), 6), 0.9, 0.0


def build_optimizer(model: nn.Module, name: str, lr: float, momentum: float,
                    weight_decay: float) -> torch.optim.Optimizer:
    """SGD (Nesterov), Adam or AdamW over the three groups, the bias group last; `weight_decay` acts on `decay` only."""
    if name not in OPTIMIZERS[1:]:
        raise UserError(f"--optimizer {name}: {nearest(name, list(OPTIMIZERS)) or 'known: ' + ', '.join(OPTIMIZERS)}")
    split = parameter_groups(model)
    groups = [{"params": split["decay"], "weight_decay": weight_decay, "kind": "decay"},
              {"params": split["no_decay"], "weight_decay": 0.0, "kind": "no_decay"},
              {"params": split["bias"], "weight_decay": 0.0, "kind": "bias"}]
    fused = any(p.is_cuda for p in split["decay"])  # one kernel for all parameters; the CPU build gains nothing
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=(momentum, 0.999), fused=fused)


def accumulation(batch_size: int) -> int:
    """How many batches make one optimiser step of about 64 images."""
    return max(round(NOMINAL_BATCH / batch_size), 1)


def scaled_weight_decay(weight_decay: float, batch_size: int) -> float:
    """Weight decay for the images that one step really sees."""
    return weight_decay * batch_size * accumulation(batch_size) / NOMINAL_BATCH


def lr_factor(epoch: int, epochs: int, final: float, kind: str = "cosine") -> float:
    """Factor of lr0 in `epoch` (0-based): half a cosine from 1 towards `final`, or a line that ends there."""
    if kind == "cosine":
        return (1 - math.cos(epoch * math.pi / epochs)) / 2 * (final - 1) + 1
    return (1 - epoch / max(epochs - 1, 1)) * (1 - final) + final


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and accumulation at every iteration.

    kind: "cosine" or "linear"; warmup: iterations of warm-up, in which the rate of weights climbs from 0, that of
    biases falls from `warmup_bias_lr`, momentum and accumulation climb to their final values.
    """

    lr0: float
    lrf: float
    epochs: int
    batch_size: int
    warmup: int
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float
    kind: str = "cosine"

    def at(self, iteration: int, epoch: int) -> tuple[float, float, float, int]:
        """(lr of weights, lr of biases, momentum, batches per step) at a 0-based global iteration."""
        lr = self.lr0 * lr_factor(epoch, self.epochs, self.lrf, self.kind)
        steps = accumulation(self.batch_size)
        if iteration > self.warmup or self.warmup == 0:
            return lr, lr, self.momentum, steps
        span = [0, self.warmup]
        steps = max(1, int(np.interp(iteration, span, [1, NOMINAL_BATCH / self.batch_size]).round()))
        bias_lr = float(np.interp(iteration, span, [self.warmup_bias_lr, lr]))
        momentum = float(np.interp(iteration, span, [self.warmup_momentum, self.momentum]))
        return float(np.interp(iteration, span, [0.0, lr])), bias_lr, momentum, steps

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int, epoch: int) -> int:
        """Set the optimiser's rates for this iteration; returns the batches per step."""
        lr, bias_lr, momentum, steps = self.at(iteration, epoch)
        for group in optimizer.param_groups:
            group["lr"] = bias_lr if group["kind"] == "bias" else lr
            if "momentum" in group:
                group["momentum"] = momentum
        return steps


def warmup_iterations(epochs: float, batches: int, minimum: int, total_epochs: int) -> int:
    """Warm-up length: at least `minimum` iterations, at most half of the training."""
    wanted = max(round(epochs * batches), minimum) if epochs > 0 else 0
    return min(wanted, total_epochs * batches // 2)


def freeze(model: nn.Module, layers: list[int]) -> list[str]:
    """Freeze rows of the model by number (`[10]` means rows 0 to 9, as in YOLOv5); returns the frozen names.

    Weights stay; batch-norm statistics go on following the data, as in YOLOv5.
    Raises `UserError` for rows that the model does not have, or where nothing is left to learn.
    """
    rows = range(layers[0]) if len(layers) == 1 else layers
    numbers = [int(name.split(".")[1]) for name, _ in model.named_parameters() if name.startswith("model.")]
    last = max(numbers, default=0)
    beyond = [row for row in rows if row > last]
    if beyond:
        raise UserError(f"--freeze {' '.join(map(str, layers))}: this model has rows 0 to {last}; see python -m models")
    prefixes = tuple(f"model.{row}." for row in rows)
    names = [name for name, _ in model.named_parameters() if name.startswith(prefixes)] if prefixes else []
    frozen = set(names)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(map(str, layers))}: nothing is left to learn; freeze fewer rows")
    return names
