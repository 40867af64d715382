"""Rows that give several maps, and what a head is told beside its maps."""

import pytest
import torch
from torch import nn

from models.detector import build_model
from models.heads import Head
from models.registry import register, unregister
from models.summary import summarise
from tests.refusals import refused
from utils.structures import PackedTargets, Targets


@pytest.fixture(autouse=True)
def layers():
    @register("Halves", multi_input=True)
    class Halves(nn.Module):
        def __init__(self, channels: list[int], count: int = 2) -> None:
            super().__init__()
            self.out_channels, self.stride = [channels[0], channels[0]], [1, 2][:count]

        def forward(self, maps):
            return [maps[0], maps[0][:, :, ::2, ::2]]

    @register("Telling", multi_input=True)
    class Telling(Head):
        hints = ("content", "targets", "image_size")

        def __init__(self, channels: list[int], nc: int = 2, *, strides: list[int]) -> None:
            super().__init__()
            self.num_classes, self.strides, self.told, self.read = nc, strides, [], channels

        def forward(self, pyramid, content, targets, image_size):
            self.told.append((content, targets, image_size))
            return {"x": tuple(pyramid)}

        def decode(self, raw):
            return torch.zeros(1, 0, 4), torch.zeros(1, 0, self.num_classes)

    yield
    unregister(Halves.__module__)


def model(head_from, first="two", **rows):
    conv = [-1, 1, "Conv", [8, 3, 2]]
    return build_model({"source": "own.yaml", "backbone": [conv, [-1, 1, "Halves", rows.get("args", []), first]],
                        "head": [*rows.get("more", []), [head_from, 1, "Telling", [2]]]})


def test_a_row_reads_one_map_or_all_of_a_row_that_gives_several() -> None:
    both, one = model("two"), model(["two.1"])
    assert both.strides == [2, 4] and both.head.read == [8, 8] and one.strides == [4]
    image = torch.rand(1, 3, 8, 8)
    maps = both.eval()(image).maps["x"]
    assert [tuple(m.shape[2:]) for m in maps] == [(4, 4), (2, 2)] and torch.equal(maps[1], maps[0][:, :, ::2, ::2])
    single = model(["two.1"], more=[["two.0", 1, "Conv", [16, 1], "c"]])
    single.eval()(image)
    assert [line.sources for line in summarise(single, 8)] == ["image", "0", "two.0", "two.1"]


def test_what_is_read_of_several_maps_is_checked() -> None:
    with refused("unknown-name", "own.yaml row 2", "two.2", "gives 2 maps, 0 to 1"):
        model(["two.2"])
    with refused("bad-row", "row 2 .Conv", "reads one map, but 2"):
        model(["two.1"], more=[["two", 1, "Conv", [8]]])
    with refused("bad-layer", "Halves gives 2 maps", "stride"):
        model("two", args=[1])


def test_a_head_is_told_what_it_asks_for() -> None:
    detector, content = model("two"), torch.tensor([[8, 6], [4, 8]])
    images = torch.rand(2, 3, 8, 8)
    raw = detector(images, content, [Targets(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)), Targets.empty()])
    told = detector.head.told[-1]
    assert told[0] is content and isinstance(told[1], PackedTargets) and told[2] == (8, 8) == raw.image_size
    assert raw.content is content
    detector(images)
    assert detector.head.told[-1] == (None, None, (8, 8))
