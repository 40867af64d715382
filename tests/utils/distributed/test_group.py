"""Processes of one job: collective operations, and what happens when one of them fails."""

import sys
import time
from pathlib import Path

import torch
from torch import nn

from tests.processes import together
from tests.running import ENVIRONMENT, ROOT, run
from utils.distributed import group as distributed
from utils.distributed.group import Group


def test_a_process_alone_asks_nobody():
    group, model, tensor = Group(), nn.Linear(2, 2), torch.ones(2)
    with group.session(), group.local_rank0_first():
        assert group.is_main and group.is_single
        assert group.wrap(model, sync_bn=True) is model
        assert group.sum(tensor) is group.mean(tensor) is tensor
        assert (group.any(True), group.any(False), group.gather("a"), group.broadcast("b")) == (True, False, ["a"], "b")
        group.share_statistics(model)
        group.wait()
        with group.no_sync(model):
            pass


def talk(group: Group, folder: Path) -> dict:
    rank = group.rank
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean += rank
        norm.running_var += 2 * rank
    group.share_statistics(nn.Sequential(norm, nn.Conv2d(3, 3, 1)))
    given = torch.tensor([rank, 1.0], requires_grad=True)
    with group.local_rank0_first():
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
            "broadcast": group.broadcast(["main"] if group.is_main else None), "mean of": norm.running_mean.detach(),
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


def test_errors_of_others_are_told_from_ones_own():
    assert distributed._is_lost(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed"))
    assert distributed._is_lost(torch.distributed.DistBackendError("NCCL error in: ... unhandled system error"))
    assert not distributed._is_lost(RuntimeError("shape mismatch: value tensor of shape [2]"))


WORKER = """
import argparse, sys, torch
from utils.distributed.launch import join
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
