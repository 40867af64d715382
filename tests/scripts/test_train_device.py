"""What training does on a GPU, shown on a CPU by setting what a GPU would set: losses read every ten steps, a scaler
that leaves steps out, memory that runs out, state that comes from another device."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import train
from engine.optim.ema import ModelEMA
from engine.optim.groups import optimizer_groups
from engine.optim.optimizer import build_optimizer
from engine.training import step as steps
from engine.training.autobatch import Meter
from engine.training.checkpoints import restore_run, save_run
from engine.training.config import TrainConfig
from engine.training.recipe import Recipe, load_recipe
from engine.training.setup import fitting_batch
from engine.training.state import NO_GROWTH
from models import build_model
from models.catalogue import resolve
from tests.processes import together
from tests.refusals import user_error
from tests.scripts.trainings import parsed, rows
from tests.tiny import tiny_data, tiny_model
from utils.checkpoint import load_checkpoint
from utils.distributed.group import Group
from utils.frame import Frame
from utils.structures import Targets, pack_targets

CPU = torch.device("cpu")
BATCHES = 12  # of an epoch of 24 images


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("device"), train=2 * BATCHES, val=2)


@pytest.fixture
def every_step(monkeypatch):
    """A step for every batch, as in a training of large batches."""
    torch.set_num_threads(1)
    monkeypatch.setattr("engine.training.setup.load_recipe",
                        lambda *args, **given: replace(load_recipe(*args, **given), nominal_batch=2))


def as_on_a_gpu(monkeypatch, read_every: int = 10) -> list[train.Training]:
    """Losses are read every so many steps; the trainings that were made."""
    made, make = [], train.make_training

    def makes(*args):
        made.append(make(*args))
        made[-1].read_every = read_every
        return made[-1]

    monkeypatch.setattr(train, "make_training", makes)
    return made


def spoil(monkeypatch, number: int) -> None:
    """From batch `number` on, the first one's loss and gradients are NaN, and what NaN does to statistics stays."""
    seen, whole = [], steps.forward_backward_chunked

    def learn(run, images, targets, is_step):
        names, values = whole(run, images, targets, is_step)
        seen.append(1)
        if len(seen) - 1 == number:
            for parameter in run.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
            next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.fill_(float("nan"))
            values = values * float("nan")
        return names, values

    monkeypatch.setattr(steps, "forward_backward_chunked", learn)


def flags(place, name, *extra):
    return parsed(place, name, "--batch", 2, *extra)


def test_losses_read_every_ten_steps_are_those_of_reading_every_step(place, every_step, monkeypatch):
    one = train.main(flags(place, "each"))
    as_on_a_gpu(monkeypatch)
    ten = train.main(flags(place, "tenth"))
    assert rows(one) == rows(ten)
    a, b = (load_checkpoint(folder / "weights/last.pt")["model"] for folder in (one, ten))
    assert all(torch.equal(value, b[key]) for key, value in a.items())


def test_a_bad_batch_between_two_readings_is_the_one_written_down(place, every_step, monkeypatch):
    as_on_a_gpu(monkeypatch)
    spoil(monkeypatch, 3)
    with user_error("not-finite", "box nan", "images") as told:
        train.main(flags(place, "which", "--multi-scale"))
    assert "--resume" not in str(told.value)  # there is none
    monkeypatch.undo()
    torch.set_num_threads(1)
    monkeypatch.setattr("engine.training.setup.load_recipe",
                        lambda *args, **given: replace(load_recipe(*args, **given), nominal_batch=2))
    spoil(monkeypatch, 3)
    with user_error("not-finite", "box nan"):
        train.main(flags(place, "at-once", "--multi-scale"))
    late, soon = (load_checkpoint(place / name / "bad_batch0.pt")["replay"] for name in ("which", "at-once"))
    assert late["size"] == soon["size"] and late["image_ids"] == soon["image_ids"]
    assert torch.equal(late["images"], soon["images"])


@pytest.mark.parametrize("kind", ["stop", "timed"])
def test_nothing_is_saved_over_a_checkpoint_before_the_losses_were_read(place, every_step, monkeypatch, kind):
    """The loss of batch 3 is NaN, the signal or the timed save comes after batch 5, the reading would after batch 9."""
    as_on_a_gpu(monkeypatch)
    spoil(monkeypatch, BATCHES + 3)
    taken, step = [], train.step

    def counted(run):
        step(run)
        taken.append(1)
        if len(taken) == BATCHES + 5:
            if kind == "stop":
                made[0].stop.number = 15
            else:
                made[0].config = made[0].config.replace(save_every_minutes=1e-9)

    made, job = [], train.Job
    monkeypatch.setattr(train, "Job", lambda *parts: made.append(job(*parts)) or made[0])
    monkeypatch.setattr(train, "step", counted)
    folder = place / kind
    with user_error("not-finite", "--resume", folder):
        train.main(flags(place, kind, "--epochs", 2))
    assert len(taken) == BATCHES + 5
    stored = load_checkpoint(folder / "weights/last.pt")
    assert stored["epoch"] == 1 and stored["train"]["batch"] == 0
    assert all(value.isfinite().all() for value in stored["train"]["model"].values())


def test_a_stop_counts_the_losses_of_the_last_steps(place, every_step, monkeypatch):
    as_on_a_gpu(monkeypatch)
    made, job, step = [], train.Job, train.step

    def stops(run):
        step(run)
        if run.batch == 6:
            made[0].stop.number = 15

    monkeypatch.setattr(train, "Job", lambda *parts: made.append(job(*parts)) or made[0])
    monkeypatch.setattr(train, "step", stops)
    with pytest.raises(SystemExit):
        train.main(flags(place, "counted"))
    state_ = load_checkpoint(place / "counted/weights/last.pt")["train"]
    assert state_["batch"] == 6 and state_["meter"]["images"] == 12


def test_weights_that_are_no_longer_finite_are_not_saved(place, every_step, monkeypatch):
    """Losses are fine, statistics are not: as where activations overflow."""
    whole = train.step

    def overflows(run):
        whole(run)
        if run.epoch:
            next(m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)).running_var.fill_(float("inf"))

    monkeypatch.setattr(train, "step", overflows)
    with user_error("not-finite", "--resume"):
        train.main(flags(place, "overflow", "--epochs", 2, "--noval"))
    stored = load_checkpoint(place / "overflow/weights/last.pt")["train"]
    assert stored["epoch"] == 1 and all(value.isfinite().all() for value in stored["model"].values())


def test_steps_that_the_scaler_skips_are_counted_told_and_remembered(place, every_step, monkeypatch, capsys):
    whole, seen = steps.forward_backward_chunked, []

    def learn(run, images, targets, is_step):
        found = whole(run, images, targets, is_step)
        seen.append(1)
        if len(seen) in (2, 3, BATCHES + 1):
            next(run.model.parameters()).grad.fill_(float("inf"))
        return found

    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(steps, "forward_backward_chunked", learn)
    step = train.step

    def interrupted(run):
        if run.epoch == 1 and run.batch == 2:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(train, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(flags(place, "left", "--epochs", 2))
    assert f"steps skipped because their gradients were not finite: 2 of {BATCHES}" in capsys.readouterr().out
    assert rows(place / "left")[0]["skipped_steps"] == "2"
    assert load_checkpoint(place / "left/weights/last.pt")["train"]["left_out"] == 2
    monkeypatch.setattr(train, "step", step)
    seen[:] = [1] * BATCHES
    train.main(train.build_parser().parse_args(["--resume", str(place / "left"), "--workers", "0", "--device", "cpu"]))
    assert f"not finite: 3 of {2 * BATCHES}" in capsys.readouterr().out
    model = load_checkpoint(place / "left/weights/last.pt")["model"]
    assert all(value.isfinite().all() for value in model.values())


def a_run(amp=None, fused=False, name="AdamW", **scale) -> train.Training:
    """A training of one layer after a step. fused: as on a GPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.config, model.names = {}, ["a"]
    optimizer = build_optimizer(optimizer_groups(model, 0.0), name, 0.1, 0.9)
    if fused:
        groups = [{k: g[k] for k in ("params", "weight_decay", "kind")} for g in optimizer.param_groups]
        words = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {"betas": (0.9, 0.999)}
        optimizer = getattr(torch.optim, name)(groups, lr=0.1, fused=True, **words)
    scaler = torch.amp.GradScaler("cpu", **scale)
    recipe = Recipe(clip_grad=0.0)
    run = train.Training(model, ModelEMA(model), optimizer, None, scaler, CPU, amp, recipe, ddp_model=model)
    scaler.scale(model(torch.rand(4, 2)).square().sum()).backward()
    train.step(run)
    return run


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("before, after", [(False, True), (True, False)], ids=["cpu to gpu", "gpu to cpu"])
def test_a_run_goes_on_on_another_device(tmp_path, monkeypatch, before, after, name):
    first = a_run(fused=before, name=name)
    save_run(first, {}, tmp_path)
    stored = load_checkpoint(tmp_path / "weights/last.pt")
    seen, load = [], torch.optim.Optimizer.load_state_dict
    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict",
                        lambda self, content: seen.append(content) or load(self, content))
    run = a_run(fused=after, name=name)
    restore_run(run, stored)
    assert {group["fused"] for group in run.optimizer.param_groups} == {after}
    assert {group["fused"] for group in seen[0]["param_groups"]} == {after}  # known before counters are placed
    run.scaler.scale(run.model(torch.rand(4, 2)).square().sum()).backward()
    train.step(run)


def test_the_loss_scale_goes_from_fp16_to_fp16_alone(tmp_path):
    plain = {"init_scale": 1.0, "growth_interval": NO_GROWTH}

    def after(first, second):
        save_run(first, {}, tmp_path)
        stored = load_checkpoint(tmp_path / "weights/last.pt")
        restore_run(second, stored)
        return second.scaler.get_scale(), second.scaler.get_growth_interval()

    half = torch.float16
    assert after(a_run(half, init_scale=512.0), a_run(half)) == (512.0, 2000)
    assert after(a_run(torch.bfloat16, **plain), a_run(half)) == (65536.0, 2000)
    assert after(a_run(half, init_scale=512.0), a_run(torch.bfloat16, **plain)) == (1.0, NO_GROWTH)
    run = a_run(half)
    save_run(run, {}, tmp_path)
    stored = load_checkpoint(tmp_path / "weights/last.pt")
    stored["train"]["scaler"] = a_run(torch.bfloat16, **plain).scaler.state_dict()  # as earlier versions wrote it
    restore_run(run, stored)
    assert run.scaler.get_growth_interval() == 2000


def test_a_scale_of_one_stays_one():
    run = a_run(init_scale=1.0, growth_interval=NO_GROWTH)
    before = run.model[0].weight.clone()
    run.scaler.scale(run.model(torch.rand(4, 2)).sum() * float("inf")).backward()
    train.step(run)
    assert run.scaler.get_scale() == 1.0 and torch.equal(before, run.model[0].weight)
    assert run.count_skipped_steps() == 1 and run.skipped_steps == 1 and run.count_skipped_steps() == 0


class Crowded:
    """`forward_backward_chunked` on a device that has room for `room` images, or less for these batches of the run."""

    def __init__(self, whole, room, batches=()):
        self.whole, self.room, self.batches, self.sizes = whole, room, batches, []

    def __call__(self, run, images, targets, is_step):
        part = -(-len(images) // run.micro_batches)
        self.sizes.append(part)
        if part > self.room and (not self.batches or run.batch in self.batches):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.whole(run, images, targets, is_step)


def test_the_whole_batch_is_tried_again_later(place, every_step, monkeypatch, capsys):
    crowded = Crowded(steps.forward_backward_chunked, 1, batches=(0,))
    monkeypatch.setattr(steps, "forward_backward_chunked", crowded)
    monkeypatch.setattr(steps, "RETRY_BATCHES", 4)
    train.main(flags(place, "again"))
    assert crowded.sizes == [2, 1, 1, 1, 1, *[2] * (BATCHES - 4)]
    told = capsys.readouterr().out
    assert "computed in 2 parts" in told and "is lost" not in told


def test_trying_again_in_vain_becomes_rare(place, every_step, monkeypatch):
    crowded = Crowded(steps.forward_backward_chunked, 1)
    monkeypatch.setattr(steps, "forward_backward_chunked", crowded)
    monkeypatch.setattr(steps, "RETRY_BATCHES", 2)
    train.main(flags(place, "vain"))
    assert crowded.sizes == [2, 1, 1, 2, 1, 1, 1, 1, 2, *[1] * 6]


PARTS = {"dfl": ("yolov8n", 64, None), "anchor": ("yolov5n", 64, None), "ota": ("yolov7-tiny", 64, "ota"),
         "aux": ("yolov7-w6", 128, None)}


@pytest.mark.parametrize("head", PARTS)
def test_parts_have_the_losses_and_gradients_of_the_whole_batch(head):
    """In evaluation mode: in training mode batch norm sees other images in a part."""
    name, size, assign = PARTS[head]
    torch.manual_seed(0)
    config = resolve(name, 3, ["a", "b", "c"], None, {"assign": assign} if assign else {})
    if head == "aux":
        config["width_multiple"] /= 8
    model = build_model(config).eval().double()
    images = torch.rand(4, 3, size, size, dtype=torch.float64)
    low = torch.rand(4, 5, 2) * size / 2
    boxes = torch.cat((low, low + 4 + torch.rand(4, 5, 2) * size / 2), -1)
    targets = pack_targets([Targets(boxes[0], torch.arange(5) % 3), Targets(boxes[1][:1], torch.tensor([1])),
                            Targets(boxes[2][:3], torch.tensor([0, 1, 2]), torch.tensor([False, True, False])),
                            Targets.empty()])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = {}
    for split in (1, 2, 4):
        run = train.Training(model, None, None, None, torch.amp.GradScaler("cpu", enabled=False), CPU, None, None,
                             ddp_model=model, micro_batches=split)
        model.zero_grad()
        _, sums = steps.forward_backward_chunked(run, images, targets, True)
        found[split] = sums, [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for split in (2, 4):
        torch.testing.assert_close(found[split][0], found[1][0], rtol=1e-9, atol=1e-12)
        for one, parts in zip(found[1][1], found[split][1], strict=True):
            torch.testing.assert_close(parts, one, rtol=1e-7, atol=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_looking_at_parts_first_leaves_statistics_and_chance_as_one_pass_does():
    model = tiny_model().train()
    images, targets = torch.rand(4, 3, 64, 64), pack_targets([Targets(torch.tensor([[8.0, 8, 40, 40]]),
                                                                      torch.tensor([1]))] * 4)
    run = train.Training(model, None, None, None, torch.amp.GradScaler("cpu", enabled=False), CPU, None, None,
                         ddp_model=model, micro_batches=2)
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen, chance = int(norm.num_batches_tracked), torch.get_rng_state()
    steps.forward_backward_chunked(run, images, targets, True)
    assert int(norm.num_batches_tracked) == seen + 2 and torch.equal(torch.get_rng_state(), chance)


def test_several_processes_say_that_they_do_not_split(place, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train, "fit", full)
    run = train.Training(None, None, None, None, None, CPU, None, None, Group(0, 2, 0))
    config = TrainConfig.from_args(flags(place, "x", "--imgsz", 64))
    job = train.Job(config, place, None, None, None, None, None, [], None, None)
    with user_error("out-of-memory", "single process"):
        train.fit_or_save_on_stop(job, run)


def smallest(group: Group, folder) -> int:
    """Memory for 64 images on one device and for 12 on the other."""
    import engine.training.autobatch

    room = (64, 12)[group.rank]
    model = nn.Linear(2, 2)
    model.strides, model.names, model.frame = [32], ["a"], Frame()
    engine.training.autobatch.meter_of = lambda device: Meter(room * 100, lambda run: run() or held[0])
    held = [0]

    def probe(*_):
        return lambda batch: held.__setitem__(0, batch * 75)

    import engine.training.setup

    engine.training.setup.probe_step = probe
    engine.training.setup.smallest_normed = lambda *_: 4
    engine.training.setup.optimizer_bytes = lambda *_: -sum(t.nbytes for t in model.state_dict().values())
    config = TrainConfig(imgsz=(64,))
    recipe = Recipe(optimizer="SGD")
    return fitting_batch(config, recipe, model, CPU, 100, group)


def test_of_several_processes_the_smallest_batch_is_taken(tmp_path):
    assert together(smallest, tmp_path) == [8, 8]


def test_the_scaler_costs_a_step_little():
    model = build_model("yolov8n", num_classes=3)
    optimizer = build_optimizer(optimizer_groups(model, 0.0), "SGD", 0.01, 0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.zeros(()))
    began = time.perf_counter()
    for _ in range(5):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        scaler.step(optimizer)
        scaler.update(1.0)
    assert time.perf_counter() - began < 2.5
