"""Two processes that share their normalisers compute the one loss of the batch that they hold together."""

import pytest
import torch
from torch import Tensor

from models.losses import anchor_head_loss, dfl_head_loss
from tests.models.loss_cases import (
    STRIDES,
    V7_ANCHORS,
    V7_GAINS,
    V8_GAINS,
    anchor_maps,
    dfl_maps,
    pad_as_on_cuda,
    random_targets,
)
from utils.structures import PackedTargets, Targets, pack_targets

SIZE, CLASSES, BATCH = 64, 3, 4


def dfl(maps: list[Tensor], targets: PackedTargets, share=None) -> dict[str, Tensor]:
    return dfl_head_loss(maps[:3], maps[3:], STRIDES, targets, (SIZE, SIZE), gains=V8_GAINS, share=share)


def anchor(assign: str, aux: bool):
    def loss(maps: list[Tensor], targets: PackedTargets, share=None) -> dict[str, Tensor]:
        return anchor_head_loss(maps[:3], V7_ANCHORS.double(), STRIDES, targets, (SIZE, SIZE), gains=V7_GAINS,
                                assign=assign, aux_maps=maps[3:] if aux else None, share=share)
    return loss


LOSSES = {"dfl": dfl, "anchor": anchor("anchor", False), "ota": anchor("ota", False), "aux": anchor("ota", True)}


def maps_of(kind: str) -> list[Tensor]:
    if kind == "dfl":
        box, cls = dfl_maps(BATCH, CLASSES, SIZE)
        return [m.double() for m in (*box, *cls)]
    return [m.double() for m in (*anchor_maps(BATCH, CLASSES, SIZE),
                                 *(anchor_maps(BATCH, CLASSES, SIZE, first=10) if kind == "aux" else []))]


def many() -> list[Targets]:
    targets = random_targets(BATCH, 12, SIZE, CLASSES, seed=3, largest=0.9).unpack()
    targets[1].ignore[:2] = True
    return targets


def one_small() -> list[Targets]:
    """So little to learn that the normalisers stand at their least, 1."""
    return [Targets.empty(), Targets(torch.tensor([[20.0, 20, 29, 30]]), torch.tensor([1])), *[Targets.empty()] * 2]


TARGETS = {"many": many, "one side empty": lambda: [*many()[:2], Targets.empty(), Targets.empty()],
           "one small": one_small, "none": lambda: [Targets.empty()] * BATCH}


def gradients(loss, maps: list[Tensor], targets: list[Targets], share=None) -> tuple[list[Tensor], Tensor]:
    leaves = [m.clone().requires_grad_() for m in maps]
    terms = torch.stack(list(loss(leaves, pack_targets(targets), share).values()))
    terms.sum().backward()
    return [m.grad for m in leaves], terms.detach()


@pytest.mark.parametrize("split", [2, 3])  # processes of equal and of different batches
@pytest.mark.parametrize("padded", [False, True], ids=["cpu", "as on cuda"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", LOSSES)
def test_parts_add_up_to_the_loss_of_the_whole_batch(kind, targets, padded, split, monkeypatch):
    if padded:
        pad_as_on_cuda(monkeypatch)
    loss, maps, truth = LOSSES[kind], maps_of(kind), TARGETS[targets]()
    halves = [slice(split), slice(split, BATCH)]
    told: list[Tensor] = []
    for half in halves:  # what each process would tell the others
        loss([m[half] for m in maps], pack_targets(truth[half]), lambda vector: told.append(vector) or vector)
    assert len(told) == 2  # one exchange for each
    parts = [gradients(loss, [m[half] for m in maps], truth[half], lambda _: sum(told)) for half in halves]
    whole, terms = gradients(loss, maps, truth)
    torch.testing.assert_close(parts[0][1] + parts[1][1], terms, rtol=1e-12, atol=1e-12)
    for first, second, expected in zip(parts[0][0], parts[1][0], whole, strict=True):
        torch.testing.assert_close(torch.cat((first, second)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_process_alone_loses_nothing_by_sharing(kind):
    alone, shared = (gradients(LOSSES[kind], maps_of(kind), many(), share) for share in (None, lambda v: v))
    for a, b in zip(alone[0], shared[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
