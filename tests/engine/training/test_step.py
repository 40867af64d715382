"""Optimiser steps of sums and of means: in one process, in two, in micro-batches and accumulated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.training.config import TrainConfig
from engine.training.recipe import Recipe
from engine.training.setup import make_training
from engine.training.step import forward_backward, step
from models import build_model
from models.catalogue import resolve
from tests.processes import together
from utils.distributed.group import Group
from utils.structures import Targets, pack_targets

CPU, SIZE = torch.device("cpu"), 64
MEAN = Recipe(optimizer="SGD", schedule="steps", milestones=[1], lr0=0.01, momentum=0.9, nesterov=False, decay="all",
              weight_decay=1e-3, warmup_epochs=0.0, clip_grad=1.0, ema=0.0, loss="mean", nominal_batch=8,
              groups=[{"part": "backbone", "lr": 0.5}])
BATCHES = (4, 4, 4, 2)  # two steps: of eight images, and of six


def training(recipe, group=None, parts=1, model=None):
    """A narrow model in float64."""
    torch.manual_seed(0)
    config = resolve("yolov8n", 3)
    config["width_multiple"] /= 4
    model = (model or build_model(config)).double().train()
    settings = TrainConfig(epochs=2, batch_size=4, sync_bn=bool(group), amp="fp32")
    run = make_training(settings, recipe, model, group or Group(), CPU, len(BATCHES))
    run.micro_batches = parts
    return run


def batch(number, count):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    low = torch.rand(count, 5, 2, generator=generator) * SIZE / 2
    boxes = torch.cat((low, low + 4 + torch.rand(count, 5, 2, generator=generator) * SIZE / 2), -1)
    labels = torch.randint(3, (count, 5), generator=generator)
    return images, [Targets(b, n) for b, n in zip(boxes, labels, strict=True)]


def epochs(run, count=2):
    """Train as train.py does, this process with its share of each batch; returns what is left to compare."""
    world, steps = run.group.world, 0
    for number in range(count * len(BATCHES)):
        epoch, place = divmod(number, len(BATCHES))
        accumulate = run.schedule.apply(run.optimizer, number, epoch)
        images, targets = batch(number, BATCHES[place])
        own = slice(run.group.rank, None, world)
        is_step = place + 1 == len(BATCHES) or (place + 1) % accumulate == 0
        forward_backward(run, images[own], pack_targets(targets[own]), is_step, fresh=place % accumulate == 0)
        if is_step:
            step(run)
            steps += 1
    return {"state": dict(run.model.state_dict()), "averaged": dict(run.ema.model.state_dict()), "steps": steps}


def in_two(group: Group, folder: Path) -> dict:
    return epochs(training(MEAN, group))


def test_a_mean_in_two_processes_is_that_of_one(tmp_path):
    first, second = together(in_two, tmp_path)
    alone = epochs(training(MEAN))
    assert alone["steps"] == first["steps"] == 4
    for key, value in alone["state"].items():
        torch.testing.assert_close(first["state"][key], value, rtol=1e-9, atol=1e-9)
        assert torch.equal(first["state"][key], second["state"][key])
        assert torch.equal(alone["averaged"][key], value)  # without averaging the model's own


def test_a_mean_is_the_gradient_of_the_sum_by_the_images_of_the_step():
    """Against plain SGD written out, with clipping after the division."""
    run, plain = training(MEAN), training(MEAN).model
    rates = {id(p): 0.01 * (0.5 if int(name.split(".")[1]) < 10 else 1.0) for name, p in plain.named_parameters()}
    velocity = {id(p): 0 for p in plain.parameters()}
    for place in (0, 1):
        images, targets = batch(place, 4)
        plain_loss = sum(plain.loss(plain(images), pack_targets(targets)).values()) / 8
        plain_loss.backward()
    norm = torch.sqrt(sum(p.grad.square().sum() for p in plain.parameters() if p.grad is not None))
    assert norm > 1, "clipping has nothing to do"
    with torch.no_grad():
        for p in plain.parameters():
            if p.grad is not None:
                velocity[id(p)] = p.grad / (norm + 1e-6) + 1e-3 * p
                p -= rates[id(p)] * velocity[id(p)]
    run.schedule.apply(run.optimizer, 0, 0)
    for place in (0, 1):
        images, targets = batch(place, 4)
        forward_backward(run, images, pack_targets(targets), place == 1, fresh=place == 0)
    step(run)
    for (name, p), q in zip(run.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n} {m}")


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_micro_batches_give_the_step_of_the_whole_batch(loss):
    """In evaluation mode: in training mode batch norm sees other images in a part."""
    ends = []
    for parts in (1, 2):
        run = training(replace(MEAN, loss=loss), parts=parts)
        run.model.eval()
        ends.append(epochs(run, 1)["state"])
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-7, atol=1e-9)


def test_frozen_norms_stay_as_they_are():
    stages = [[-1, 1, "ResNetStage", [8 * 2**i, 2 if i else 1, "basic", "frozen"], f"layer{i + 1}"] for i in range(3)]
    config = {"nc": 3, "backbone": [[-1, 1, "ResNetStem", [8, "frozen"], "stem"], *stages],
              "head": [[["layer2", "layer3"], 1, "DFLDetect", ["nc"]]]}
    run = training(replace(MEAN, ema=0.9), model=build_model(config))
    norms = {key: value.clone() for key, value in run.model.state_dict().items() if ".bn" in key}
    weight = run.model.model[1][0].conv1.weight.clone()
    epochs(run, 1)
    frozen = [key for key in norms if int(key.split(".")[1]) < 4]
    assert len(frozen) >= 4 * 7 and not torch.equal(weight, run.model.model[1][0].conv1.weight)
    for model in (run.model, run.ema.model):
        assert all(torch.equal(model.state_dict()[key], norms[key]) for key in frozen)


def test_a_nominal_batch_of_none_never_accumulates():
    run = training(replace(MEAN, nominal_batch=0, warmup_epochs=1.0, warmup_min_iters=3))
    assert {run.schedule.apply(run.optimizer, i, i // 4) for i in range(8)} == {1}
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {1e-3}
