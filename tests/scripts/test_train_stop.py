"""Runs that are stopped, killed or damaged go on as if nothing had been: the same weights, bit for bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import train
from tests.scripts.test_train import ENVIRONMENT, ROOT, script, words
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.report import read_csv
from utils.state import open_run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """72 scenes, so that there are steps within an epoch."""
    folder = tmp_path_factory.mktemp("stop")
    content = {"format": "shapes", "path": str(folder / "shapes"), "train": 72, "val": 8, "test": 4, "size": 64,
               "seed": 0}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def run(place) -> Path:
    """An uninterrupted run of three epochs of five batches, a step at the fourth and at the fifth."""
    script("train", *words(place, "whole", **{"--batch": 16, "--noplots": ""}))
    return place / "whole"


def start(place: Path, name: str, *extra: object) -> subprocess.Popen:
    flags = [*words(place, name, **{"--batch": 16, "--workers": 1, "--noplots": ""}), *extra]
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *map(str, flags)], text=True, env=ENVIRONMENT,
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.is_file()


def rows(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("time", "images_per_s", "memory_gb")}
            for row in read_csv(folder / "results.csv")]


def assert_same_end(whole: Path, other: Path) -> None:
    for name in ("last", "best"):
        a, b = (load_checkpoint(folder / f"weights/{name}.pt")["model"] for folder in (whole, other))
        assert all(torch.equal(value, b[key]) for key, value in a.items())
    assert rows(whole) == rows(other)
    assert not (other / "weights/previous.pt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on(run, place, number):
    name = f"stopped{int(number)}"
    process = start(place, name)
    wait_for(place / name / "weights/last.pt")  # the first epoch is done
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "finishing this step" in err, err
    assert f"to go on: python train.py --resume {place / name}" in out
    assert "train" in load_checkpoint(place / name / "weights/last.pt")
    assert "resuming after epoch" in script("train", "--resume", place / name).stdout
    assert_same_end(run, place / name)


def test_a_run_that_was_saved_within_an_epoch_resumes_there(run, place, monkeypatch):
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
        train.main(train.build_parser().parse_args([*map(str, flags)]))
    monkeypatch.undo()
    state = load_checkpoint(place / "minutes/weights/last.pt")["train"]
    assert (state["epoch"], state["batch"]) == (1, 4) and state["meter"]["images"] == 64
    assert "after epoch 1 and 4 batches" in script("train", "--resume", place / "minutes").stdout
    assert_same_end(run, place / "minutes")


def test_a_torn_checkpoint_gives_way_to_the_one_before(run, place):
    process = start(place, "torn")
    wait_for(place / "torn/weights/previous.pt")  # two epochs are done
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = place / "torn/weights/last.pt"
    last.write_bytes(last.read_bytes()[:10_000])
    told = script("train", "--resume", place / "torn").stdout
    assert "truncated" in told and "previous.pt" in told
    assert_same_end(run, place / "torn")


def test_the_newest_run_that_has_not_ended_is_found(tmp_path):
    for number, name in enumerate(("old", "ended", "mine")):
        weights = tmp_path / name / "weights"
        weights.mkdir(parents=True)
        train_state = {} if name == "ended" else {"train": {"job": name}}
        save_checkpoint({"number": number, **train_state}, weights / ("previous.pt" if name == "mine" else "last.pt"))
    assert open_run(True, str(tmp_path))[1]["number"] == 2  # last.pt is gone, what came before it is there
    assert open_run(True, str(tmp_path), "old")[1]["number"] == 0
    with pytest.raises(UserError, match="every run there has ended"):
        open_run(True, str(tmp_path), "another")
