"""Runs that are stopped, killed or damaged go on as if nothing had been: the same weights, bit for bit."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import train
from engine.training.checkpoints import end_run, find_run, has_ended, open_run
from tests.refusals import user_error
from tests.running import ended, script, start, wait_for
from tests.scripts.trainings import assert_same_end, rows, words
from tests.tiny import tiny_data
from utils.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """72 scenes, so that there are steps within an epoch."""
    return tiny_data(tmp_path_factory.mktemp("stop"), train=72, val=8, test=4)


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """An uninterrupted run of three epochs of five batches, a step at the fourth and at the fifth."""
    script("train", *words(place, "whole", **{"--batch": 16, "--noplots": ""}))
    return place / "whole"


def begin(place: Path, name: str) -> subprocess.Popen:
    return start("train.py", *words(place, name, **{"--batch": 16, "--workers": 1, "--noplots": ""}))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on(whole, place, number):
    name = f"stopped{int(number)}"
    process = begin(place, name)
    wait_for(place / name / "weights/last.pt", process)  # the first epoch is done
    time.sleep(0.2)
    process.send_signal(number)
    done = ended(process)
    assert done.returncode == 128 + number and "finishing this step" in done.stderr, done.stderr
    assert f"to go on: python train.py --resume {place / name}" in done.stdout
    assert "train" in load_checkpoint(place / name / "weights/last.pt")
    assert "resuming after epoch" in script("train", "--resume", place / name).stdout
    assert_same_end(whole, place / name)


@pytest.mark.slow
def test_a_run_that_was_saved_within_an_epoch_resumes_there(whole, place, monkeypatch):
    """Saved after every step; the one within the second epoch is the last that is taken."""
    steps, step = [], train.step

    def fifth(run):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(step(run))

    torch.set_num_threads(1)
    monkeypatch.setattr(train, "step", fifth)
    flags = words(place, "minutes", **{"--batch": 16, "--save-every-minutes": 1e-9, "--noplots": ""})
    with pytest.raises(KeyboardInterrupt):
        train.main(train.build_parser().parse_args(flags))
    monkeypatch.undo()
    state = load_checkpoint(place / "minutes/weights/last.pt")["train"]
    assert (state["epoch"], state["batch"]) == (1, 4) and state["meter"]["images"] == 64
    assert "after epoch 1 and 4 batches" in script("train", "--resume", place / "minutes").stdout
    assert_same_end(whole, place / "minutes")


STEPS = """optimizer: SGD
warmup_epochs: 0
schedule: steps
milestones: [1]
loss: mean
nominal_batch: 32
nesterov: false
ema: 0
decay: all
groups: [{part: backbone, lr: 0.1}, {match: '^head.*bias$', decay: 0.0}]
"""


def test_steps_means_and_groups_without_averaging_go_on_too(place, monkeypatch):
    """And the running mean of a box loss that keeps one."""
    (place / "steps.yaml").write_text(STEPS)
    torch.set_num_threads(1)
    flags = {"--batch": 16, "--epochs": 2, "--noplots": "", "--hyp": place / "steps.yaml", "--device": "cpu",
             "--box-loss": "wiou"}
    parse = train.build_parser().parse_args
    train.main(parse(words(place, "steps", **flags)))
    one_epoch = train.train_epoch

    def stops(job, run):
        if run.epoch:
            raise KeyboardInterrupt
        return one_epoch(job, run)

    monkeypatch.setattr(train, "train_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        train.main(parse(words(place, "steps-again", **flags)))
    monkeypatch.undo()
    stored = load_checkpoint(place / "steps-again/weights/last.pt")
    assert all(torch.equal(value, stored["model"][key]) for key, value in stored["train"]["model"].items())
    assert stored["train"]["recipe"]["groups"][0] == {"part": "backbone", "lr": 0.1}
    train.main(parse(["--resume", str(place / "steps-again"), "--device", "cpu", "--workers", "0"]))
    assert_same_end(place / "steps", place / "steps-again")
    first, second = (float(row["lr"]) for row in rows(place / "steps"))
    assert second == pytest.approx(first / 10)


@pytest.mark.slow
def test_a_torn_checkpoint_gives_way_to_the_one_before(whole, place):
    process = begin(place, "torn")
    wait_for(place / "torn/weights/previous.pt", process)  # two epochs are done
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = place / "torn/weights/last.pt"
    last.write_bytes(last.read_bytes()[:10_000])
    told = script("train", "--resume", place / "torn").stdout
    assert "truncated" in told and "previous.pt" in told
    assert_same_end(whole, place / "torn")


def test_the_newest_run_that_has_not_ended_is_found(tmp_path):
    for number, name in enumerate(("old", "ended", "mine")):
        weights = tmp_path / name / "weights"
        weights.mkdir(parents=True)
        train_state = {"job": name} if name == "ended" else {"train": {"job": name}}
        save_checkpoint({"number": number, **train_state}, weights / ("previous.pt" if name == "mine" else "last.pt"))
    assert open_run(True, str(tmp_path))[1]["number"] == 2  # last.pt is gone, what came before it is there
    for name in ("old", "mine"):
        shutil.rmtree(tmp_path / name)
    with user_error("nothing-to-resume", tmp_path):
        open_run(True, str(tmp_path))


def test_a_job_that_is_started_anew_finds_its_own_run(tmp_path, monkeypatch, capsys):
    for name, content in {"old": {"train": {"job": "old"}}, "done": {"job": "done"},
                          "older": {"train": {}}, "another": {"train": {"job": "another"}}}.items():
        save_checkpoint({"name": name, **content}, tmp_path / name / "weights/last.pt")
    newest = tmp_path / "another/weights/last.pt"
    newest.write_bytes(newest.read_bytes()[:200])

    def found(job: str, restarts: int = 1):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", job)
        return find_run(False, str(tmp_path))

    assert found("old", restarts=0) == (None, None)  # a new job begins a new run
    path, stored = found("old")
    assert stored["name"] == "old" and path == tmp_path / "old/weights/last.pt" and not has_ended(stored)
    assert "another" in capsys.readouterr().out  # damaged: told, and no reason to begin anew
    assert has_ended(found("done")[1])  # and is not trained once more
    assert found("nobody's") == (None, None)


def test_a_run_is_ended_once_or_twice_alike(tmp_path):
    last = tmp_path / "weights/last.pt"
    save_checkpoint({"train": {"job": "mine", "epoch": 3}, "epoch": 3}, last)
    save_checkpoint({"train": {"job": "mine", "epoch": 2}, "epoch": 2}, last.with_name("previous.pt"))
    for _ in range(2):
        end_run(tmp_path)
        assert {k: v for k, v in load_checkpoint(last).items() if k != "format"} == {"epoch": 3, "job": "mine"}
        assert not last.with_name("previous.pt").exists()
