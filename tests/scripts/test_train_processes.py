"""train.py in two processes under torchrun: the same as one, and after a process died it goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.scripts.test_train import ENVIRONMENT, ROOT, place, script, words  # noqa: F401
from tests.scripts.test_train_stop import assert_same_end, rows, wait_for
from utils.checkpoint import load_checkpoint


def torchrun(place: Path, name: str, *launch: str, **changes: object) -> list[str]:  # noqa: F811
    flags = words(place, name, **{"--noplots": "", "--device": "cpu", "--amp": "fp32", "--optimizer": "SGD", **changes})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *launch]
    return [*command, str(ROOT / "train.py"), *map(str, flags)]


def test_two_processes_train_what_one_does(place):  # noqa: F811
    done = subprocess.run(torchrun(place, "two", **{"--sync-bn": "", "--epochs": 2}), capture_output=True, text=True,
                          timeout=300, env=ENVIRONMENT, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results in") == 2, "only the main process prints"  # at the start and at the end
    script("train", *words(place, "one", **{"--noplots": "", "--device": "cpu", "--amp": "fp32", "--optimizer": "SGD",
                                            "--epochs": 2}))
    one, two = (load_checkpoint(place / name / "weights/last.pt")["model"] for name in ("one", "two"))
    assert all(torch.allclose(value.double(), two[key].double(), rtol=1e-3, atol=1e-4) for key, value in one.items())
    for a, b in zip(rows(place / "one"), rows(place / "two"), strict=True):
        assert a.keys() == b.keys()
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)


def test_a_batch_that_cannot_be_shared_is_told(place):  # noqa: F811
    done = subprocess.run(torchrun(place, "odd", **{"--batch": 7}), capture_output=True, text=True, timeout=120,
                          env=ENVIRONMENT, cwd=ROOT)
    assert done.returncode != 0 and "--batch-size 7: it is shared by 2 processes" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes through /proc")
def test_an_elastic_job_goes_on_after_a_process_was_killed(place):  # noqa: F811
    whole = subprocess.run(torchrun(place, "unhurt"), capture_output=True, text=True, timeout=300, env=ENVIRONMENT,
                           cwd=ROOT)
    assert whole.returncode == 0, whole.stderr
    job = subprocess.Popen(torchrun(place, "hurt", "--max-restarts", "1"), text=True, env=ENVIRONMENT, cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(place / "hurt/weights/last.pt")
    time.sleep(0.1)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert "resuming after epoch" in out
    assert_same_end(place / "unhurt", place / "hurt")
