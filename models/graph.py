"""The layers of a model in order, and which reads which."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

IMAGE = -1  # the source that stands for the input image


@dataclass(frozen=True)
class Node:
    """One row of a model, wired: index and optional name; the module's name; indices of the rows that it reads (`IMAGE`
    for the input); whether it takes a list; channels that it gives and its stride in pixels.
    """

    index: int
    name: str | None
    module: str
    sources: tuple[int, ...]
    many: bool
    channels: int
    stride: float


class Graph(nn.ModuleList):
    """Runs its layers in order, letting go of each map after its last reader."""

    def __init__(self, layers: list[nn.Module], nodes: list[Node]) -> None:
        super().__init__(layers)
        self.nodes = nodes
        last_reader = {source: node.index for node in nodes for source in node.sources}
        self._released = [tuple(s for s, reader in last_reader.items() if reader == node.index) for node in nodes]

    def forward(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """(B, 3, H, W) -> what the last row, the head, returns."""
        maps: dict[int, Tensor] = {IMAGE: images}
        for layer, node, released in zip(self, self.nodes, self._released, strict=True):
            inputs = [maps[source] for source in node.sources]
            maps[node.index] = layer(inputs if node.many else inputs[0])
            for source in released:
                del maps[source]
        return maps[len(self) - 1]  # type: ignore[return-value]


class Series(nn.Sequential):
    """A row's repeats, for layers that do not take the count themselves."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.out_channels = layers[-1].out_channels
        self.stride = prod(relative_stride(layer) for layer in layers)


def relative_stride(layer: nn.Module) -> float:
    """The stride that a layer declares; torch's own layers may say it per axis."""
    stride = getattr(layer, "stride", 1)
    return stride[0] if isinstance(stride, tuple) else stride
