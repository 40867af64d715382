"""Schedules, weight decay scaling and EMA against YOLOv7's own code."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.optim.ema import ModelEMA
from engine.optim.schedule import Schedule, accumulation, lr_factor, scaled_weight_decay


@pytest.mark.parametrize("name, kind", [("lf_onecycle", "cosine"), ("lf_linear", "linear")])
@pytest.mark.parametrize("setting", ["p5", "p6", "tiny_lrf0.01", "short"])
def test_lr_factor(golden, name, kind, setting):
    meta, arrays = golden("schedule")
    facts = meta["facts"][f"lf_{setting}"]
    ours = [lr_factor(e, facts["epochs"], facts["lrf"], kind) for e in range(facts["epochs"])]
    np.testing.assert_allclose(ours, arrays[f"{name}_{setting}"], rtol=1e-6)


@pytest.mark.parametrize("case", ["warmup_nb100_bs16", "warmup_nb7393_bs16", "warmup_nb50_bs64"])
def test_warmup(golden, case):
    meta, arrays = golden("schedule")
    facts, hyp = meta["facts"][case], meta["facts"][case]["hyp"]
    schedule = Schedule(hyp["lr0"], hyp["lrf"], facts["epochs"], facts["total_batch_size"], facts["nw"],
                        hyp["momentum"], hyp["warmup_momentum"], hyp["warmup_bias_lr"])
    for ni, epoch, accumulate, lr, bias_lr, momentum in arrays[case]:
        if ni > facts["nw"]:
            continue
        ours = schedule.at(int(ni), int(epoch))
        np.testing.assert_allclose(ours, (lr, bias_lr, momentum, accumulate), rtol=1e-5, atol=1e-9)


def test_weight_decay_scaling(golden):
    for row in golden("schedule")[0]["facts"]["weight_decay_scaling"]:
        assert accumulation(row["total_batch_size"]) == row["accumulate"]
        assert scaled_weight_decay(5e-4, row["total_batch_size"]) == pytest.approx(row["weight_decay"])


def test_ema_decay(golden):
    _, arrays = golden("schedule")
    ema = ModelEMA(nn.Linear(1, 1))
    for updates, decay in zip(arrays["ema_updates"], arrays["ema_decay"], strict=True):
        ema.updates = int(updates)
        assert ema.momentum() == pytest.approx(float(decay), rel=1e-6)


def test_ema_follows_buffers_and_counters():
    model = nn.BatchNorm1d(2)
    ema = ModelEMA(model)
    model.running_mean.fill_(1.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model)
    assert torch.allclose(ema.model.running_mean, torch.full((2,), 1 - ema.momentum()))
    assert ema.model.num_batches_tracked == 7


def test_ema_trace(golden):
    """The original starts at 0 and follows a weight that reads 1, 2, ... 100."""
    _, arrays = golden("schedule")
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema, trace = ModelEMA(model), []
    for value in range(1, 101):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        trace.append(ema.model.weight.item())
    np.testing.assert_allclose(trace, arrays["ema_trace_100"], rtol=1e-5)
