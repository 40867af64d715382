"""Two processes that sum their normalisers compute the one loss of the batch that they hold together."""

import pytest
import torch
from torch import Tensor

from tests.models.loss_cases import HEADS, PRIOR_HEADS, head_loss, head_maps, pad_as_on_cuda, random_targets
from utils.structures import Targets, pack_targets

SIZE, CLASSES, BATCH = 64, 3, 4


def maps_of(head: str) -> list[Tensor]:
    return [m.detach() for m in head_maps(head, BATCH, CLASSES, SIZE, torch.float64)]


def many() -> list[Targets]:
    targets = random_targets(BATCH, 12, SIZE, CLASSES, seed=3, largest=0.9).unpack()
    targets[1].ignore[:2] = True
    return targets


def one_small() -> list[Targets]:
    """So little to learn that the normalisers stand at their least, 1."""
    return [Targets.empty(), Targets(torch.tensor([[20.0, 20, 29, 30]]), torch.tensor([1])), *[Targets.empty()] * 2]


TARGETS = {"many": many, "one side empty": lambda: [*many()[:2], Targets.empty(), Targets.empty()],
           "one small": one_small, "none": lambda: [Targets.empty()] * BATCH}


def gradients(head: str, maps: list[Tensor], targets: list[Targets], all_reduce=None) -> tuple[list[Tensor], Tensor]:
    leaves = [m.clone().requires_grad_() for m in maps]
    terms = torch.stack(list(head_loss(head, leaves, pack_targets(targets), SIZE, all_reduce=all_reduce).values()))
    terms.sum().backward()
    return [m.grad for m in leaves], terms.detach()


@pytest.mark.parametrize("split", [2, 3])  # processes of equal and of different batches
@pytest.mark.parametrize("padded", [False, True], ids=["cpu", "as on cuda"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("head", HEADS + PRIOR_HEADS)
def test_parts_add_up_to_the_loss_of_the_whole_batch(head, targets, padded, split, monkeypatch):
    if padded:
        pad_as_on_cuda(monkeypatch)
    maps, truth = maps_of(head), TARGETS[targets]()
    halves = [slice(split), slice(split, BATCH)]
    told: list[Tensor] = []
    for half in halves:  # what each process would tell the others
        head_loss(head, [m[half] for m in maps], pack_targets(truth[half]), SIZE,
                  all_reduce=lambda vector: told.append(vector) or vector)
    assert len(told) == 2  # one exchange for each
    parts = [gradients(head, [m[half] for m in maps], truth[half], lambda _: sum(told)) for half in halves]
    whole, terms = gradients(head, maps, truth)
    torch.testing.assert_close(parts[0][1] + parts[1][1], terms, rtol=1e-12, atol=1e-12)
    for first, second, expected in zip(parts[0][0], parts[1][0], whole, strict=True):
        torch.testing.assert_close(torch.cat((first, second)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head", HEADS + PRIOR_HEADS)
def test_a_process_alone_loses_nothing_by_sharing(head):
    alone, shared = (gradients(head, maps_of(head), many(), reduce) for reduce in (None, lambda v: v))
    for a, b in zip(alone[0], shared[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
