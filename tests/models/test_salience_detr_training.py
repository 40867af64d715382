"""Salience DETR in training: processes, micro-batches, replay, necks, groups of the recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.optim.groups import optimizer_groups
from engine.optim.rules import read_rules
from engine.training.config import TrainConfig
from engine.training.nonfinite import save_bad_batch
from engine.training.recipe import Recipe, load_recipe
from engine.training.replay import replay_file
from engine.training.setup import make_training
from engine.training.step import forward_backward, step
from models import build_model
from tests.models.test_salience_detr import targets, tiny
from tests.processes import together
from utils.distributed.group import Group
from utils.structures import Batch, Letterbox, PackedTargets, Raw, Targets, pack_targets

CPU, SIZE = torch.device("cpu"), 64
RECIPE = Recipe(optimizer="SGD", schedule="steps", milestones=[1], lr0=0.001, momentum=0.9, nesterov=False,
                warmup_epochs=0.0, clip_grad=1.0, ema=0.0, loss="mean", nominal_batch=0, policy="detr")
# Few queries: the images of a batch get as many as the one with the fewest, so that more depend on the others.
NARROW = {"queries": 5, "salience_loss": "fork"}


def training(group=None, parts=1, **options):
    torch.manual_seed(0)
    model = tiny(**{**NARROW, **options}).double().train()
    run = make_training(TrainConfig(epochs=2, batch_size=4, sync_bn=bool(group), amp="fp32"), RECIPE, model,
                        group or Group(), CPU, 3)
    run.micro_batches = parts
    return run


def batch(number: int, counts=(3, 2, 1, 4)) -> tuple[torch.Tensor, list[Targets]]:
    """Images of 64 px and what they hold."""
    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    return images, [Targets(t.boxes.clamp(max=60) / 2, t.labels) for t in targets(*counts)]


def steps(run, counts) -> dict:
    """An optimiser step for each entry of counts, this process with its share of each batch."""
    losses = []
    for number, objects in enumerate(counts):
        run.schedule.apply(run.optimizer, number, 0)
        images, truth = batch(number, objects)
        own = slice(run.group.rank * 4 // run.group.world, (run.group.rank + 1) * 4 // run.group.world)
        names, values = forward_backward(run, images[own], pack_targets(truth[own]), True, fresh=True)
        losses.append(run.group.sum(values.clone()))
        step(run)
    return {"state": dict(run.model.state_dict()), "losses": torch.stack(losses), "names": names}


EQUAL = ((3, 2, 1, 4), (2, 3, 0, 0), (0, 0, 0, 0))


def in_two(group: Group, folder: Path) -> dict:
    """Without denoising, whose draws are of each process; then with it, where one process holds no object."""
    same, noised = steps(training(group, denoising=0), EQUAL), steps(training(group, denoising=10), EQUAL)
    return {"same": same, "noised": noised}


@pytest.mark.slow
def test_two_processes_are_one(tmp_path) -> None:
    first, second = together(in_two, tmp_path)
    alone = steps(training(denoising=0), EQUAL)
    torch.testing.assert_close(first["same"]["losses"], alone["losses"], rtol=1e-6, atol=1e-6)  # float32
    for key, value in alone["state"].items():
        torch.testing.assert_close(first["same"]["state"][key], value, rtol=1e-5, atol=1e-8)
    for key, value in first["noised"]["state"].items():
        assert torch.isfinite(value).all() and torch.equal(value, second["noised"]["state"][key]), key
    assert first["noised"]["names"] == second["noised"]["names"] and "dn_cls" in first["noised"]["names"]


@pytest.mark.parametrize("loss", ["plain", "by_size", "fork"])
def test_micro_batches_give_the_step_of_the_whole_batch(loss) -> None:
    """In evaluation mode, since batch norm sees other images in a part."""
    ends = []
    for parts in (1, 2):
        run = training(parts=parts, denoising=0, salience_loss=loss)
        run.model.eval()
        ends.append(steps(run, EQUAL[:2]))
    torch.testing.assert_close(ends[1]["losses"], ends[0]["losses"], rtol=1e-6, atol=1e-6)
    for key, value in ends[0]["state"].items():
        torch.testing.assert_close(ends[1]["state"][key], value, rtol=1e-5, atol=1e-8)


def test_the_salience_of_the_fork_is_the_plain_one_by_objects_and_cells() -> None:
    found = {}
    for loss in ("plain", "fork"):
        torch.manual_seed(0)
        model, truth = tiny(denoising=0, salience_loss=loss).eval(), targets(3, 1)
        found[loss] = float(model.loss(model(torch.rand(2, 3, 128, 128)), truth)["salience"].detach())
    assert found["fork"] == pytest.approx(found["plain"] * 4 / (16**2 + 8**2 + 4**2 + 2**2), rel=1e-5)


def test_batches_with_and_without_objects_have_the_same_terms() -> None:
    run, names = training(), []
    for counts in EQUAL:
        images, truth = batch(0, counts)
        names.append(forward_backward(run, images, pack_targets(truth), True, fresh=True)[0])
    assert names[0] == names[1] == names[2] and "dn_giou" in names[0]


def test_a_bad_batch_is_replayed_where_its_images_lie(tmp_path, monkeypatch) -> None:
    model, seen = tiny(**NARROW), []
    packed = pack_targets(targets(2, 1))
    packed = PackedTargets(*packed.tensors(), torch.tensor([[96, 128], [128, 64]]))
    images = torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8)
    frames = [Letterbox(size, (128, 128), (1.0, 1.0), (0, 0)) for size in ((96, 128), (128, 64))]
    save_bad_batch(tmp_path / "bad.pt", model, Batch(images, packed, [4, 7], frames), None, 0, {"cls": float("nan")})
    whole = type(model).loss
    monkeypatch.setattr(type(model), "loss", lambda self, raw, *rest: seen.append(raw) or whole(self, raw, *rest))
    lines = replay_file(tmp_path / "bad.pt")
    assert [line.split(":")[0] for line in lines[1:]] == ["float32", "image 4", "image 7"]
    assert [raw.content.tolist() for raw in seen] == [[[96, 128], [128, 64]], [[96, 128]] * 2, [[128, 64]] * 2]
    assert all(isinstance(raw, Raw) and "dn_cls" in raw.maps for raw in seen)


@pytest.mark.parametrize("neck", ["assn", "ssfpn"])
def test_a_scale_sequence_neck_trains(neck) -> None:
    """By one flag: every parameter of the neck learns, and what a frame holds in padding changes nothing."""
    model = build_model("salience-detr-tiny", 3, neck=neck).train()
    truth, content = targets(2, 1), torch.tensor([[64, 96], [96, 64]])
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    sum(model.loss(model(images, content, truth), truth).values()).backward()
    grads = [p.grad for p in model.model[-2].parameters()]
    assert type(model.model[-2]).__name__.lower() == neck and all(g is not None and g.abs().sum() > 0 for g in grads)
    other = images.clone()
    other[0, :, 64:], other[1, :, :, 64:] = 0.9, 0.1
    with torch.no_grad():
        a, b = (model.eval()(x, content).maps["box"][-1] for x in (images, other))
    assert torch.equal(a, b)


def test_the_groups_of_the_recipe_are_the_published_ones() -> None:
    """Learning rate as a factor, weight decay and part of each: tensors and numbers."""
    with torch.device("meta"):
        model, recipe = build_model("salience-detr-r50", 91), load_recipe("salience-detr")
    names = {id(p): key for key, p in model.named_parameters()}
    found: dict[tuple, tuple] = {}
    for group in optimizer_groups(model, recipe.weight_decay, recipe.decay, read_rules(recipe.groups, "")):
        factor = group.get("factor", 1.0)
        for p in group["params"]:
            part = "" if factor == 1 else "head" if names[id(p)].startswith("model.9.") else "backbone"
            key = (factor, group["weight_decay"], part)
            tensors, numbers = found.get(key, (0, 0))
            found[key] = tensors + 1, numbers + p.numel()
    assert found == {(0.1, 1e-4, "backbone"): (42, 23_232_512), (0.1, 1e-4, "head"): (12, 786_432),
                     (0.1, 0.0, "head"): (12, 3072), (1.0, 0.0, ""): (272, 87_660), (1.0, 1e-4, ""): (296, 31_748_419)}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 55_858_095


def test_the_recipe_drops_where_the_published_one_does() -> None:
    short, long, fork = map(load_recipe, ("salience-detr", "salience-detr-24", "scale-focused-detr"))
    assert (short.milestones, short.run["epochs"], long.milestones, long.run["epochs"]) == ([10], 12, [20], 24)
    assert (fork.milestones, fork.run["epochs"], fork.run["batch_size"]) == ([10], 48, 1)
    assert short.clip_grad == fork.clip_grad == 0.1 and replace(long, milestones=[10], run=short.run) == short


def test_the_losses_of_eight_levels_weigh_as_in_its_configuration() -> None:
    with torch.device("meta"):
        gains = build_model("scale-focused-detr-r50-8level", 91).head.gains
    assert [gains[term] for term in ("cls", "l1", "giou")] == [2, 8, 4]
    assert [gains[f"{part}{term}"] for part in ("dn_", "enc_") for term in ("cls", "l1", "giou")] == [1, 5, 2] * 2
    assert gains["salience"] == 2
