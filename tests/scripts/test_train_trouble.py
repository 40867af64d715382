"""Losses that are not finite, and memory that runs out."""

import pytest
import torch
import yaml

import train
from engine.training import step as steps
from tests.refusals import user_error
from tests.scripts.trainings import parsed
from tests.tiny import tiny_data, tiny_model
from utils.checkpoint import load_checkpoint
from utils.reporting.run_log import read_csv
from utils.structures import Targets, pack_targets


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("trouble"), train=5, val=3)


def spoil(monkeypatch, *numbers):
    """Make the loss of these batches NaN, counted over the run."""
    seen, whole = [], steps.forward_backward_chunked

    def learn(run, images, targets, is_step):
        seen.append(1)
        names, values = whole(run, images, targets, is_step)
        if len(seen) - 1 in numbers:
            for module in run.model.modules():  # what NaN activations do to running statistics
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.fill_(float("nan"))
            return names, values * float("nan")
        return names, values

    monkeypatch.setattr(steps, "forward_backward_chunked", learn)


def test_a_loss_that_is_not_finite_ends_the_run_and_can_be_replayed(place, monkeypatch, capsys):
    spoil(monkeypatch, 1)
    with user_error("not-finite", "box nan", "images [", "--replay", "bad_batch0.pt"):
        train.main(parsed(place, "nan"))
    monkeypatch.undo()
    saved = place / "nan/bad_batch0.pt"
    stored = load_checkpoint(saved)
    assert stored["replay"]["images"].dtype == torch.uint8
    train.main(train.build_parser().parse_args(["--replay", str(saved)]))
    told = capsys.readouterr().out
    assert "in training: box nan" in told and "float32: box" in told and "image " in told
    assert "weights were not finite already, the first: model.0.bn.running_mean" in told
    with user_error("not-a-bad-batch", "none.pt"):
        stored.pop("replay")
        torch.save(stored, place / "none.pt")
        train.main(train.build_parser().parse_args(["--replay", str(place / "none.pt")]))


def test_bad_batches_are_skipped_as_often_as_allowed(place, monkeypatch, capsys):
    spoil(monkeypatch, 0)
    folder = train.main(parsed(place, "skip", "--skip-bad-batches", 1))
    assert "skipped a batch (1 of 1)" in capsys.readouterr().out and (folder / "bad_batch0.pt").is_file()
    model = load_checkpoint(folder / "weights/best.pt")["model"]
    assert all(value.isfinite().all() for value in model.values())
    monkeypatch.undo()
    spoil(monkeypatch, 0, 1)
    with user_error("not-finite"):
        train.main(parsed(place, "skips", "--skip-bad-batches", 1))


def test_a_batch_that_does_not_fit_is_computed_in_parts(place, monkeypatch, capsys):
    whole, sizes = steps.forward_backward_chunked, []

    def learn(run, images, targets, is_step):
        part = -(-len(images) // run.micro_batches)
        sizes.append(part)
        if part > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(run, images, targets, is_step)

    monkeypatch.setattr(steps, "forward_backward_chunked", learn)
    folder = train.main(parsed(place, "parts"))
    assert "computed in 2 parts" in capsys.readouterr().out and sizes[:2] == [4, 2]
    assert float(read_csv(folder / "results.csv")[0]["train/box"]) > 0


def test_parts_add_up_to_the_batch(place):
    """Of images that are alike, in evaluation mode: elsewhere means over a part's boxes differ from the batch's."""
    model = tiny_model("yolov7-tiny").eval().double()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64).repeat(4, 1, 1, 1)
    targets = pack_targets([Targets(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]))] * 4)
    grads = {}
    for split in (1, 2):
        run = train.Training(model, None, None, None, torch.amp.GradScaler("cpu", enabled=False), torch.device("cpu"),
                             None, None, ddp_model=model, micro_batches=split)
        model.zero_grad()
        _, sums = steps.forward_backward_chunked(run, images, targets, True)
        grads[split] = (sums, model.model[0].conv.weight.grad.clone())
    assert torch.allclose(grads[1][0], grads[2][0], rtol=1e-6)
    assert torch.allclose(grads[1][1], grads[2][1], rtol=1e-5, atol=1e-9)


def test_no_memory_at_all_is_one_sentence(place, monkeypatch):
    def learn(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "forward_backward_chunked", learn)
    with user_error("out-of-memory", "--batch-size 4", "--imgsz 64"):
        train.main(parsed(place, "nothing"))


def test_settings_are_written_as_they_were_settled(place):
    folder = train.main(parsed(place, "batch", "--batch", -1, "--save-best-by", "AP50", "--clip-grad", 3))
    args = yaml.safe_load((folder / "args.yaml").read_text())
    assert args["batch_size"] == 5 and args["recipe"]["clip_grad"] == 3
