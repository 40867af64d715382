"""Processes that work together: what they tell each other, and what happens when one of them fails."""

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.processes import together
from tests.running import ENVIRONMENT, ROOT, run
from utils.distributed import group as distributed
from utils.distributed.group import Group, join, own_device
from utils.errors import UserError


def test_a_process_alone_asks_nobody():
    group, model, tensor = Group(), nn.Linear(2, 2), torch.ones(2)
    with group.session(), group.first():
        assert group.main and group.alone
        assert group.wrap(model, sync_bn=True) is model
        assert group.sum(tensor) is group.mean(tensor) is tensor
        assert (group.any(True), group.any(False), group.gather("a"), group.broadcast("b")) == (True, False, ["a"], "b")
        group.share_statistics(model)
        group.wait()
        with group.no_sync(model):
            pass


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of the second of two processes."""
    for word, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(word, value)
    return monkeypatch


@pytest.mark.parametrize("word", ["MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"])
def test_a_torn_environment_is_told(torchrun, word):
    torchrun.delenv(word)
    with pytest.raises(UserError, match=f"{word} is not as torchrun sets it"):
        join("cpu")


def test_one_process_under_torchrun_is_alone(torchrun):
    torchrun.setenv("WORLD_SIZE", "1")
    assert join("cpu") == (Group(), torch.device("cpu"))


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(own_device("", rank, 3)) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [str(own_device("0,2", rank, 2)) for rank in range(2)] == ["cuda:0", "cuda:2"]
    assert str(own_device("cpu", 5, 8)) == "cpu"
    for device, processes, told in (("", 4, "4 processes for 3 GPUs"), ("0,2", 3, "3 processes for 2 GPUs"),
                                    ("1", 2, "2 processes for 1 GPU;"), ("2,2", 2, "2 processes for 1 GPU;")):
        with pytest.raises(UserError, match=told):
            own_device(device, 0, processes)
    with pytest.raises(UserError, match="devices 0 to 2"):
        own_device("0,7", 0, 2)


def talk(group: Group, folder: Path) -> dict:
    rank = group.rank
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean += rank
        norm.running_var += 2 * rank
    group.share_statistics(nn.Sequential(norm, nn.Conv2d(3, 3, 1)))
    given = torch.tensor([rank, 1.0], requires_grad=True)
    with group.first():
        file = folder / "cache"
        cached = file.exists()
        time.sleep(0.2)  # a second one that does not wait would see no file
        file.touch()
    wrapped = group.wrap(nn.Linear(2, 1, bias=False))
    same = group.gather(wrapped.module.weight.tolist())
    with group.no_sync(wrapped):
        wrapped(torch.tensor([[rank, 1.0]])).sum().backward()
    here = wrapped.module.weight.grad.clone()
    wrapped(torch.tensor([[rank, 1.0]])).sum().backward()
    return {"sum": group.sum(given), "mean": group.mean(torch.tensor(rank)), "given": given.detach(),
            "any": [group.any(rank == 1), group.any(False)], "gather": group.gather({"rank": rank}),
            "broadcast": group.broadcast(["main"] if group.main else None), "mean of": norm.running_mean.detach(),
            "var of": norm.running_var.detach(), "cached": cached, "weights": same, "here": here,
            "all": wrapped.module.weight.grad.clone(), "speaks": sys.stdout is sys.__stdout__}


def test_two_processes_talk(tmp_path):
    main, other = together(talk, tmp_path)
    for rank, told in enumerate((main, other)):
        assert told["sum"].tolist() == [1, 2] and told["given"].tolist() == [rank, 1]  # a new tensor
        assert told["mean"] == 0.5
        assert told["any"] == [True, False]
        assert told["broadcast"] == ["main"]
        assert told["mean of"].tolist() == [0.5] * 3 and told["var of"].tolist() == [2] * 3
        assert told["cached"] == bool(rank) != told["speaks"]
        assert told["here"].tolist() == [[rank, 1]]
        assert told["all"].tolist() == [[1, 2]]  # the mean of both batches of the step
    assert main["gather"] == [{"rank": 0}, {"rank": 1}] and other["gather"] is None
    assert main["weights"][0] == main["weights"][1] and other["weights"] is None


def meet(group: Group, folder: Path) -> list[int] | None:
    return group.gather(group.rank)


def test_a_job_that_is_started_anew_does_not_wait_for_the_dead(tmp_path):
    """torchrun keeps its store over restarts, and in it the addresses of the processes that have died."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for restart in (0, 1):  # the main process looks for the other's address before that is there
        environment = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                       "TORCHELASTIC_RESTART_COUNT": str(restart)}
        main, _ = together(meet, tmp_path, environment=environment, late=float(restart), timeout_s=20)
        assert main == [0, 1]


def test_errors_of_others_are_told_from_ones_own():
    assert distributed._is_lost(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed"))
    assert distributed._is_lost(torch.distributed.DistBackendError("NCCL error in: ... unhandled system error"))
    assert not distributed._is_lost(RuntimeError("shape mismatch: value tensor of shape [2]"))


WORKER = """
import argparse, sys, torch
from utils.distributed.group import join
from utils.errors import UserError, run_script
def main(args):
    group, _ = join("cpu")
    with group.session():
        group.wait()
        if group.rank == 1:
            raise UserError("labels/7.txt row 3: no such class; mend it")
        while True:
            group.sum(torch.ones(3))
run_script(main, argparse.ArgumentParser())
"""


def test_a_process_that_fails_ends_the_job_with_its_error(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    done = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script,
               environment={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    assert done.returncode != 0
    assert "error: labels/7.txt row 3: no such class; mend it" in done.stderr
    assert "process 0 of 2: another process of this job has ended" in done.stderr or "SIGTERM" in done.stderr
    assert "File \"" + str(script) not in done.stderr  # one sentence, no traceback of ours
