"""Joining a job of torchrun: its environment, devices, and restarts."""

from pathlib import Path

import pytest
import torch

from tests.processes import together
from utils.distributed.group import Group
from utils.distributed.launch import join, own_device
from utils.errors import UserError


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
    with pytest.raises(UserError, match=word) as error:
        join("cpu")
    assert error.value.code == "bad-environment"


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
        with pytest.raises(UserError, match=told) as error:
            own_device(device, 0, processes)
        assert error.value.code == "missing-device"
    with pytest.raises(UserError, match="devices 0 to 2") as error:
        own_device("0,7", 0, 2)
    assert error.value.code == "missing-device"


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
