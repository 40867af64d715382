"""The optimisers."""

import torch

from engine.optim.optimizer import build_optimizer


def test_plain_descent_is_descent_without_momentum():
    optimizer = build_optimizer(torch.nn.Conv2d(3, 3, 1), "SGD", 0.01, 0.0, 0.0)
    assert not optimizer.param_groups[0]["nesterov"]
    assert build_optimizer(torch.nn.Conv2d(3, 3, 1), "SGD", 0.01, 0.9, 0.0).param_groups[0]["nesterov"]
