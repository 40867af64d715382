"""Learning rate, momentum, weight decay and accumulation over a training, by default as YOLOv5, v7 and v8 train."""

import math
from dataclasses import dataclass

import numpy as np
import torch

NOMINAL_BATCH = 64  # the batch size that learning rates and weight decay are given for


def accumulation(batch_size: int, nominal: int = NOMINAL_BATCH) -> int:
    """Number of batches accumulated for one optimiser step of about `nominal` images; 0: one, whatever its size."""
    return max(round(nominal / batch_size), 1)


def scaled_weight_decay(weight_decay: float, batch_size: int, nominal: int = NOMINAL_BATCH) -> float:
    """Weight decay scaled to the images of one optimiser step; with a nominal batch of 0 as it is."""
    return weight_decay * batch_size * accumulation(batch_size, nominal) / nominal if nominal else weight_decay


def lr_factor(epoch: int, epochs: int, final: float, kind: str = "cosine") -> float:
    """Factor of lr0 in `epoch` (0-based): half a cosine from 1 towards `final`, or a line that ends there."""
    if kind == "cosine":
        return (1 - math.cos(epoch * math.pi / epochs)) / 2 * (final - 1) + 1
    return (1 - epoch / max(epochs - 1, 1)) * (1 - final) + final


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and accumulation at every iteration.

    kind: "cosine", "linear" or "steps", at each of whose `milestones`, epochs counted from 0, the rate is multiplied by
    `gamma`; warmup: iterations of warm-up, in which the rate of weights climbs from 0, that of biases falls from
    `warmup_bias_lr`, momentum and accumulation climb to their final values; nominal: images of an optimiser step, 0:
    those of a batch.
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
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    nominal: int = NOMINAL_BATCH

    def factor(self, epoch: int) -> float:
        """Factor of lr0 in `epoch` (0-based), after the warm-up."""
        if self.kind == "steps":
            return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        return lr_factor(epoch, self.epochs, self.lrf, self.kind)

    def at(self, iteration: int, epoch: int) -> tuple[float, float, float, int]:
        """(lr of weights, lr of biases, momentum, batches per step) at a 0-based global iteration."""
        lr = self.lr0 * self.factor(epoch)
        steps = accumulation(self.batch_size, self.nominal)
        if iteration > self.warmup or self.warmup == 0:
            return lr, lr, self.momentum, steps
        span = [0, self.warmup]
        steps = max(1, int(np.interp(iteration, span, [1, self.nominal / self.batch_size]).round()))
        bias_lr = float(np.interp(iteration, span, [self.warmup_bias_lr, lr]))
        momentum = float(np.interp(iteration, span, [self.warmup_momentum, self.momentum]))
        return float(np.interp(iteration, span, [0.0, lr])), bias_lr, momentum, steps

    def apply(self, optimizer: torch.optim.Optimizer, iteration: int, epoch: int) -> int:
        """Set the optimiser's rates for this iteration, those of a rule's group times its factor; returns the batches
        per step."""
        lr, bias_lr, momentum, steps = self.at(iteration, epoch)
        for group in optimizer.param_groups:
            group["lr"] = (bias_lr if group["kind"] == "bias" else lr) * group.get("factor", 1.0)
            if "momentum" in group:
                group["momentum"] = momentum
        return steps


def warmup_iterations(epochs: float, batches: int, minimum: int, total_epochs: int) -> int:
    """Warm-up length: at least `minimum` iterations, at most half of the training."""
    wanted = max(round(epochs * batches), minimum) if epochs > 0 else 0
    return min(wanted, total_epochs * batches // 2)
