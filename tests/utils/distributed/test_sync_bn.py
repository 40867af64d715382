"""Batch norm over several processes is batch norm over all of their images."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.optim.groups import parameter_groups
from models import build_model
from tests.processes import together
from utils.distributed import sync_bn
from utils.distributed.group import Group
from utils.distributed.sync_bn import synchronise

SHAPES = {"flat": (5, 4, 3, 2), "deep": (5, 4, 2, 3, 2)}


def norm_of(kind: str, **words) -> nn.Module:
    torch.manual_seed(1)
    norm = (nn.BatchNorm2d if kind == "flat" else nn.BatchNorm3d)(4, **words)
    if norm.affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    return norm.double()


def pass_twice(norm: nn.Module, kind: str, part: slice) -> dict[str, Tensor]:
    """Two training steps' worth; values far from zero, where a difference of two large sums would lose its digits."""
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(SHAPES[kind], generator=generator, dtype=torch.float64) for _ in range(2))
    x = (x + 1e4)[part].requires_grad_()
    for _ in range(2):
        y = norm(x)
        (y * weight[part]).square().sum().backward()
    return {"y": y.detach(), "grad": x.grad, **{f"grad of {k}": p.grad for k, p in norm.named_parameters()},
            **norm.state_dict()}


VARIANTS = [(kind, words) for kind in SHAPES for words in ({}, {"momentum": None}, {"affine": False})]


def work(group: Group, folder: Path) -> dict:
    found = {}
    part = slice(0, 2) if group.is_main else slice(2, 5)
    for number, (kind, words) in enumerate(VARIANTS):
        model = nn.Sequential(norm_of(kind, **words), nn.Linear(1, 1))  # something with a parameter
        assert synchronise(model) == 1
        found[number] = pass_twice(model[0], kind, part)
    model = nn.Sequential(norm_of("flat")).float()
    synchronise(model)
    low = model(torch.randn(SHAPES["flat"], generator=torch.Generator().manual_seed(3))[part].bfloat16())
    return {"found": found, "low": low.detach()}


def test_two_processes_normalise_as_one(tmp_path):
    told = together(work, tmp_path)
    for number, (kind, words) in enumerate(VARIANTS):
        expected = pass_twice(norm_of(kind, **words), kind, slice(0, 5))
        first, second = (t["found"][number] for t in told)
        for word, value in expected.items():
            if word in ("y", "grad"):
                actual = torch.cat((first[word], second[word]))
            elif word.startswith("grad of"):
                actual = first[word] + second[word]
            else:
                assert torch.equal(first[word], second[word])
                actual = first[word]
            torch.testing.assert_close(actual, value, rtol=1e-8, atol=1e-9, msg=lambda m, w=word: f"{w}: {m}")
    whole = norm_of("flat").float()(torch.randn(SHAPES["flat"], generator=torch.Generator().manual_seed(3)).bfloat16())
    assert told[0]["low"].dtype == whole.dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([t["low"] for t in told]), whole, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("device", sync_bn.KINDS)
def test_the_model_stays_what_it_was(device, monkeypatch):
    monkeypatch.setitem(sync_bn.KINDS, "cpu", sync_bn.KINDS[device])
    torch.manual_seed(0)
    plain = build_model("yolov8n", 3, neck="ssfpn")
    synced = copy.deepcopy(plain)
    norms = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in plain.modules())
    assert synchronise(synced) == norms > 50
    kinds = {type(m) for m in synced.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)}
    assert kinds == set(sync_bn.KINDS[device])
    assert list(synced.state_dict()) == list(plain.state_dict())
    assert ([len(g) for g in parameter_groups(synced).values()] == [len(g) for g in parameter_groups(plain).values()])
    images = torch.rand(2, 3, 64, 64)
    for train in (True, False):  # alone it is plain batch norm
        with torch.no_grad():
            expected, actual = (model.train(train)(images).maps["cls"][0] for model in (plain, synced))
        assert torch.equal(actual, expected)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(synced).fuse()(images).maps["cls"][0], expected, rtol=1e-4, atol=1e-4)
