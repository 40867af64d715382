"""Selection of a device."""

import pytest
import torch

from utils.device import select_device
from utils.errors import UserError


def test_devices_that_are_not_here_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda") as error:
        select_device("cuda")
    assert error.value.code == "missing-device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(select_device(word)) for word in ("", "cuda", "1", "cuda:1", "cpu")] == [
        "cuda:0", "cuda:0", "cuda:1", "cuda:1", "cpu"]
    with pytest.raises(UserError, match="torchrun --nproc-per-node 2 train.py"):
        select_device("0,1")
