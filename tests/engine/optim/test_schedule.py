"""Conventions of other families than YOLO's: steps, no nominal batch, no averaged weights."""

import pytest
import torch
from torch import nn

from engine.optim.ema import ModelEMA
from engine.optim.schedule import Schedule, accumulation, scaled_weight_decay


def test_steps_fall_at_their_epochs():
    schedule = Schedule(0.001, 0.01, 280, 80, 0, 0.9, 0.9, 0.0, "steps", (200, 250), 0.1, 0)
    rates = [schedule.at(epoch * 100, epoch)[0] for epoch in range(280)]
    assert rates[:200] == [0.001] * 200 and rates[200:250] == [pytest.approx(1e-4)] * 50
    assert rates[250:] == [pytest.approx(1e-5)] * 30


def test_a_warm_up_leads_to_the_first_step():
    schedule = Schedule(0.01, 0.01, 12, 16, 500, 0.9, 0.9, 0.0, "steps", (8, 11), 0.1, 0)
    assert [schedule.at(i, 0)[0] for i in (0, 250, 500, 501)] == [0.0, 0.005, 0.01, 0.01]
    assert schedule.at(250, 0)[1] == 0.005  # biases climb with the weights


def test_without_a_nominal_batch_nothing_is_accumulated_or_scaled():
    schedule = Schedule(0.1, 0.01, 10, 2, 100, 0.9, 0.8, 0.1, "cosine", nominal=0)
    assert {schedule.at(i, 0)[3] for i in range(0, 300, 7)} == {1}
    assert accumulation(2, 0) == 1 and scaled_weight_decay(5e-4, 2, 0) == 5e-4
    assert accumulation(2, 16) == 8 and scaled_weight_decay(5e-4, 3, 16) == pytest.approx(5e-4 * 15 / 16)


def test_without_averaging_the_weights_are_the_models_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEMA(model, 0.0)
    for values in (float("nan"), 0.1, -3.7):
        nn.init.constant_(model[0].weight, values)
        model[1].running_mean.fill_(values / 3)
        model[1].num_batches_tracked += 5
        ema.update(model)
    assert all(torch.equal(value, ema.model.state_dict()[key]) for key, value in model.state_dict().items())
    assert ema.updates == 3 and not any(p.requires_grad for p in ema.model.parameters())
