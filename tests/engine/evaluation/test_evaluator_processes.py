"""What several processes evaluate together is, to the last bit, what one process evaluates."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data import load_index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.collector import Collector
from engine.evaluation.evaluate import PartialResult, evaluate, merge
from engine.evaluation.metrics.protocol import PROTOCOLS
from engine.evaluation.metrics.results_file import result_rows
from tests.processes import together
from tests.tiny import tiny_data
from utils.distributed.group import Group
from utils.select import non_max_suppression
from utils.structures import Detections, PackedTargets

IMAGES, BATCH = 13, 3  # five batches, the last of one image


def predict(images: Tensor, targets: PackedTargets) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What a middling model says: the truth, shifted and doubted by a rule of the boxes themselves, and a few more."""
    low, sides = targets.boxes[..., :2], targets.boxes[..., 2:] - targets.boxes[..., :2]
    noise = torch.sin(targets.boxes * 7)
    centre, sides = low + sides / 2 + noise[..., :2] * 3, sides * (1 + noise[..., 2:] * 0.2) + 1
    boxes = torch.cat((centre - sides / 2, centre + sides / 2), -1)
    boxes = torch.cat((boxes, boxes.flip(-2) + 9), 1)  # (B, 2M, 4)
    scores = torch.rand(*boxes.shape[:2], 5, generator=torch.Generator().manual_seed(boxes.shape[1])) * 0.3
    sure = (0.5 + noise[..., :1] / 2) * targets.valid[..., None]
    scores[:, :targets.labels.shape[1]].scatter_(-1, targets.labels[..., None], sure)
    return boxes, scores, {"box": images.float().mean(), "cls": boxes.sum() / 7}


def evaluated(group: Group, folder: Path) -> dict[str, dict]:
    """Plain numbers of an evaluation in the index's order and of one by aspect."""
    found = {}
    with group.local_rank0_first():
        index = load_index(folder / "tiny.yaml", "val")
    for rect in (False, True):
        loader = eval_loader(index, 64, LoaderConfig(BATCH, rect=rect, rank=group.rank, world=group.world))
        result = evaluate(predict, non_max_suppression, loader, index, device=torch.device("cpu"), group=group)
        result.judge_by(PROTOCOLS["visdrone"], index.names, group)
        metrics, own = (json.dumps(dataclasses.asdict(judged), default=np.ndarray.tolist)  # with every digit
                        for judged in (result.metrics, result.own))
        found["rect" if rect else "square"] = {
            "metrics": metrics, "own": own, "matrix": result.confusion.matrix.tolist(), "losses": result.losses,
            "rows": result_rows(result.truth, result.found), "speed": result.speed,
            "pictures": len(result.plot_batches)}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("evaluation"), train=1, val=IMAGES, test=1, size=[48, 64])


def test_two_processes_see_what_one_sees(folder):
    first, second = together(evaluated, folder)
    alone = evaluated(Group(), folder)
    for kind, expected in alone.items():
        assert 0.05 < json.loads(expected["metrics"])["values"]["AP"] < 0.9  # a comparison of zeros would prove nothing
        for told in (first[kind], second[kind]):
            for word in ("metrics", "own", "matrix", "losses"):
                assert told[word] == expected[word]
            assert told["speed"] == first[kind]["speed"]
        assert json.dumps(first[kind]["rows"]) == json.dumps(expected["rows"])
        assert len({row["image_id"] for row in expected["rows"]}) == IMAGES
        assert (first[kind]["pictures"], second[kind]["pictures"]) == (3, 0)


@pytest.mark.parametrize("world", [1, 2, 3, 7])  # of seven processes two have no batch at all
def test_parts_of_any_number_of_processes_make_the_whole(folder, world):
    index = load_index(folder / "tiny.yaml", "val")
    gathered: list[PartialResult] = []

    @dataclasses.dataclass(frozen=True)
    class Gathering(Group):
        def gather(self, item):
            gathered.append(item)

        def broadcast(self, item):
            return None, None, None, None

    for rank in range(world)[::-1]:
        loader = eval_loader(index, 64, LoaderConfig(BATCH, rank=rank, world=world))
        last = evaluate(predict, non_max_suppression, loader, index, device=torch.device("cpu"),
                            group=Gathering(rank, world))
    collector = Collector(index.truth)
    collector.merge(last.found)
    metrics, matrix, losses, _ = merge(gathered[::-1], collector)
    alone = evaluate(predict, non_max_suppression, eval_loader(index, 64, LoaderConfig(BATCH)), index,
                     device=torch.device("cpu"))
    assert metrics.values == alone.metrics.values and metrics.unseen == 0
    assert (matrix == alone.confusion.matrix).all()
    assert losses == alone.losses
    assert result_rows(index.truth, collector.found()) == result_rows(index.truth, alone.found)


def test_an_image_that_two_processes_saw_is_told(folder):
    index = load_index(folder / "tiny.yaml", "val")
    one, two = (Collector(index.truth) for _ in range(2))
    image = index.records[4].image_id
    for evaluator in (one, two):
        evaluator.update([image], [Detections(torch.ones(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.int64))])
    with pytest.raises(ValueError, match=f"image id {image} was given twice"):
        one.merge(two.found())
