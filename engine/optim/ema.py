"""Exponential moving average of a model's weights and running statistics."""

import copy
import math

import torch
from torch import nn


class ModelEMA:
    """Keeps `ema = d * ema + (1 - d) * model` over every floating entry of the state dict.

    d(u) = decay * (1 - exp(-u / tau)) with u the number of updates including the present one: small at first, so that
    early weights carry little (YOLOv5, YOLOv7 and YOLOv8 use decay 0.9999, tau 2000). With decay 0 the average is the
    model of the last update itself, bit for bit.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000.0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, 0

    def momentum(self) -> float:
        """d(u) at the current number of updates."""
        return self.decay * (1 - math.exp(-self.updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """One update towards `model`; entries that are not floating (counters) are copied."""
        self.updates += 1
        averaged, current = self.model.state_dict(), model.state_dict()
        floating = [key for key, value in averaged.items() if value.is_floating_point()]
        ours, theirs = [averaged[k] for k in floating], [current[k] for k in floating]
        # one fused call for all tensors: 5 kernels on a GPU rather than 1,500
        if self.decay:
            torch._foreach_lerp_(ours, theirs, 1 - self.momentum())
        else:  # also out of values that are not finite, which no weight of 0 removes
            torch._foreach_copy_(ours, theirs)
        for key, value in averaged.items():
            if not value.is_floating_point():
                value.copy_(current[key])

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = int(state["updates"])
