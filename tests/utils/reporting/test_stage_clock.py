"""Stages are timed one after another, and what lies between `lap` and `start` belongs to none."""

import torch

from utils.reporting import stage_clock


def test_stages_add_up(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(times))
    clock = stage_clock.StageClock(torch.device("cpu"), ("load", "inference"))
    clock.lap("load")
    clock.lap("inference")
    assert clock.spent == 3.0
    clock.start()
    clock.lap("load")
    assert clock.spent == 0.5 and clock.seconds == {"load": 1.5, "inference": 2.0}
    speed = stage_clock.per_image(clock.seconds, 2)
    assert speed == {"load": 750.0, "inference": 1000.0} and stage_clock.per_image(clock.seconds, 0)["load"] == 1500.0
    assert stage_clock.format_speed(speed) == "750.0 ms load, 1000.0 ms inference"
