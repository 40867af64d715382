"""Two processes that train a model end with the weights of one process at the same global batch."""

from pathlib import Path

import pytest
import torch

from models import build_model
from models.catalogue import resolve
from models.graph import IMAGE, Graph, Node
from models.layers.conv import Conv
from tests.processes import together
from utils.distributed.group import Group
from utils.structures import Targets

CLASSES, STEPS, BATCH = 3, 3, 4
# Name, neck, how many times narrower, pixels. At 64 px yolov7-w6 has maps of one cell, and batch norm over so few
# values lets a difference of 1e-15 grow to 1e-8 within three steps, in one process too.
MODELS = [("yolov8n", None, 1, 64), ("yolov7-tiny", None, 1, 64), ("yolov8n", "assn", 4, 64),
          ("yolov7-w6", "ssfpn", 8, 128), ("retinanet-r18", "ssfpn", 8, 128),
          ("ssd300-r18", None, 8, 300)]


def batch(step: int, size: int) -> tuple[torch.Tensor, list[Targets]]:
    """Images of which the last two, a whole process's share in the last step, hold no object."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, 3, size, size, generator=generator, dtype=torch.float64)
    low = torch.rand(BATCH, 5, 2, generator=generator) * size / 2
    boxes = torch.cat((low, low + 4 + torch.rand(BATCH, 5, 2, generator=generator) * size / 2), -1)
    labels = torch.randint(CLASSES, (BATCH, 5), generator=generator)
    targets = [Targets(b, n) for b, n in zip(boxes, labels, strict=True)]
    return images, targets if step + 1 < STEPS else [*targets[:2], Targets.empty(), Targets.empty()]


def train(group: Group, name: str, neck: str | None, narrower: int, size: int) -> dict:
    """Steps of SGD, each of two batches whose gradients add up, of which each process has its share."""
    torch.manual_seed(group.rank)  # the wrapped model starts from main's weights
    config = resolve(name, CLASSES, neck=neck)
    config["width_multiple"] /= narrower
    model = build_model(config).double().train()
    wrapped = group.wrap(model, sync_bn=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    part = slice(group.rank * BATCH // group.world, (group.rank + 1) * BATCH // group.world)
    losses = []
    for step in range(STEPS):
        images, targets = batch(step, size)
        with group.no_sync(wrapped):
            terms = model.loss(wrapped(images[part].flip(-1)), targets[part], None if group.is_single else group.sum)
            (sum(terms.values()) * group.world).backward()
        terms = model.loss(wrapped(images[part]), targets[part], None if group.is_single else group.sum)
        (sum(terms.values()) * group.world).backward()
        losses.append(group.sum(torch.stack(list(terms.values())).detach()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"losses": torch.stack(losses), "state": dict(model.state_dict()),
            "kinds": sorted({type(m).__name__ for m in model.modules() if "BatchNorm" in type(m).__name__})}


def train_all(group: Group, folder: Path) -> list[dict]:
    return [train(group, *model) for model in MODELS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    first, second = together(train_all, tmp_path_factory.mktemp("two"))
    return list(zip(MODELS, first, second, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(MODELS)), ids=["-".join(map(str, m)) for m in MODELS])
def test_two_processes_end_where_one_does(runs, place):
    model, first, second = runs[place]
    alone = train(Group(), *model)
    assert "SyncBatchNorm2d" in first["kinds"] and not any(kind.startswith("Sync") for kind in alone["kinds"])
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-9, atol=1e-9)
    for key, expected in alone["state"].items():  # weights, running statistics and counts
        torch.testing.assert_close(first["state"][key], expected, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k} {m}")
        assert torch.equal(first["state"][key], second["state"][key]), key


def test_a_row_that_nobody_reads_is_not_waited_for():
    rows = [Conv(3, 4), Conv(4, 4), Conv(4, 4)]
    graph = Graph(rows, [Node(i, None, "Conv", (source,), (None,), False, 4, 1)
                         for i, source in enumerate((IMAGE, 0, 0))])
    graph(torch.rand(2, 3, 8, 8)).sum().backward()
    waited = {name for name, p in graph.named_parameters() if p.requires_grad}
    assert waited == {name for name, p in graph.named_parameters() if p.grad is not None}
    assert {name[0] for name in waited} == {"0", "2"}
