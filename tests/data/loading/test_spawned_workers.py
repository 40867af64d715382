"""Workers that are spawned, as on macOS and Windows: the same batches as from forked ones, and the same end."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data.augment.policies.yolo import YoloPolicy
from data.loading.build import eval_loader, train_loader
from data.loading.config import LoaderConfig
from tests.data.pictures import Index, equal_batches, make_records
from tests.running import ENVIRONMENT, ROOT, run, start

SIZES = [(40, 60), (60, 40), (64, 64), (100, 30), (30, 100), (48, 52), (64, 64)]
CONFIG = YoloPolicy(mixup=0.3)
HERE = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    records = make_records(tmp_path_factory.mktemp("images"), SIZES)
    Path(records[2].path).write_bytes(b"nothing")
    return Index(records)


def _passes(loader) -> list:
    batches = []
    for epoch in (1, 3):
        if epoch == 3:
            loader.set_weights(np.arange(len(SIZES)))
            loader.close_mosaic()
        loader.set_epoch(epoch)
        batches += list(loader)
    return batches


@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
@pytest.mark.parametrize("cache", ["ram", *(pytest.param(c, marks=pytest.mark.slow) for c in (None, "disk", "gpu"))])
def test_batches_are_those_of_this_process(index, tmp_path, monkeypatch, cache):
    """Over two passes of the same workers: they see the order, the weights and the caches, and report damage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaders = [train_loader(index, 64, CONFIG, LoaderConfig(3, cache=cache, device="cpu", rect=cache is None, **given))
               for given in ({}, {"workers": 2, "start_method": "spawn"})]
    alone, spawned = map(_passes, loaders)
    assert len(alone) == len(spawned) == 6 and all(map(equal_batches, spawned, alone))
    assert loaders[1].damaged == [index.records[2].path]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*cannot be decoded")
def test_evaluation_batches_are_those_of_this_process(index):
    alone, spawned = (list(eval_loader(index, 64, LoaderConfig(2, rect=True, **given)))
                      for given in ({}, {"workers": 1, "start_method": "spawn"}))
    assert len(alone) == len(spawned) and all(map(equal_batches, spawned, alone))


SCRIPT = """
import sys, time
from pathlib import Path
from data.augment.policies.yolo import YoloPolicy
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from tests.data.pictures import Index, make_records
if __name__ == "__main__":
    index = Index(make_records(Path(sys.argv[1]), [(40, 60)] * 8))
    loader = train_loader(index, 64, YoloPolicy(), LoaderConfig(2, workers=2, start_method="spawn"))
    loader.set_epoch(0)
    batches = iter(loader)
    next(batches)
    print(*(worker.pid for worker in loader._loader._iterator._workers), flush=True)
    if sys.argv[2] == "wait":
        time.sleep(100)
    if sys.argv[2] == "error":
        raise ValueError("an error")
"""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def _wait_for_end(pids: list[int], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not all(map(_gone, pids)):
        assert time.monotonic() < until, "workers live on"
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["end", pytest.param("error", marks=pytest.mark.slow)])
def test_workers_end_with_a_script(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(tmp_path / "script.py", tmp_path, how, limit=120, environment=HERE)
    assert ("an error" in done.stderr) == (how == "error") == bool(done.returncode), done.stderr
    _wait_for_end([int(pid) for pid in done.stdout.split()], 10)


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = start(tmp_path / "script.py", tmp_path, "wait", environment=HERE)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for_end(workers, 90)  # they look for their parent every few seconds
