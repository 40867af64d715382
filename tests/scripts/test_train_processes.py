"""train.py in two processes under torchrun: the same as one, and after a process died it goes on."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.running import ended, run, script, start, wait_for
from tests.scripts.trainings import assert_same_end, rows, words
from tests.tiny import tiny_data
from utils.checkpoint import load_checkpoint

PLAIN = {"--noplots": "", "--device": "cpu", "--amp": "fp32", "--optimizer": "SGD"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny data set of 24 + 8 scenes."""
    return tiny_data(tmp_path_factory.mktemp("processes"), train=24, val=8, test=4)


def torchrun(place: Path, name: str, *launch: str, **changes: object) -> list[str]:
    """The words of a training in two processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *launch, "train.py",
            *words(place, name, **PLAIN, **changes)]


def test_two_processes_train_what_one_does(place):
    done = run(*torchrun(place, "two", **{"--sync-bn": "", "--epochs": 2}))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results in") == 2, "only the main process prints"  # at the start and at the end
    script("train", *words(place, "one", **PLAIN, **{"--epochs": 2}))
    one, two = (load_checkpoint(place / name / "weights/last.pt")["model"] for name in ("one", "two"))
    assert all(torch.allclose(value.double(), two[key].double(), rtol=1e-3, atol=1e-4) for key, value in one.items())
    for a, b in zip(rows(place / "one"), rows(place / "two"), strict=True):
        assert a.keys() == b.keys()
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_told(place):
    done = run(*torchrun(place, "odd", **{"--batch": 7}))
    assert done.returncode != 0 and "--batch-size 7: it is shared by 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes through /proc")
def test_an_elastic_job_goes_on_after_a_process_was_killed(place):
    whole = run(*torchrun(place, "unhurt"))
    assert whole.returncode == 0, whole.stderr
    job = start(*torchrun(place, "hurt", "--max-restarts", "1"))
    wait_for(place / "hurt/weights/last.pt", job)  # the first of three epochs is done
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    done = ended(job)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout
    assert_same_end(place / "unhurt", place / "hurt")
