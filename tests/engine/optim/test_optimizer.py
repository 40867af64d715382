"""The optimisers."""

import torch

from engine.optim.groups import optimizer_groups
from engine.optim.optimizer import build_optimizer


def test_plain_descent_is_descent_without_momentum():
    groups = optimizer_groups(torch.nn.Conv2d(3, 3, 1), 0.0)
    assert not build_optimizer(groups, "SGD", 0.01, 0.0).param_groups[0]["nesterov"]
    assert build_optimizer(groups, "SGD", 0.01, 0.9).param_groups[0]["nesterov"]
    assert not build_optimizer(groups, "SGD", 0.01, 0.9, nesterov=False).param_groups[0]["nesterov"]
