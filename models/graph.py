"""The layers of a model in order, and which reads which."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, nn

IMAGE = -1  # the source that stands for the input image


@dataclass(frozen=True)
class Node:
    """One row of a model, wired: index and optional name; the module's name; indices of the rows that it reads (`IMAGE`
    for the input), and which map of each where that row gives several; whether it takes a list; channels that it gives
    and its stride in pixels, tuples where it gives several maps.
    """

    index: int
    name: str | None
    module: str
    sources: tuple[int, ...]
    maps: tuple[int | None, ...]
    multi_input: bool
    channels: int | tuple[int, ...]
    stride: float | tuple[float, ...]

    def output(self, index: int | None) -> tuple[int, float]:
        """Channels and stride of a map, by its index where the row gives several."""
        return (self.channels, self.stride) if index is None else (self.channels[index], self.stride[index])


class Graph(nn.ModuleList):
    """Runs its layers in order and releases each map after its last reader."""

    def __init__(self, layers: list[nn.Module], nodes: list[Node]) -> None:
        super().__init__(layers)
        self._wire(nodes)
        run = {node.index for node in self._run}
        for index in range(len(self)):
            if index not in run:  # it gets no gradient, and processes that train together would wait for its gradients
                self[index].requires_grad_(False)

    def _wire(self, nodes: list[Node]) -> None:
        """Note who reads whom; rows that the head does not depend on are not run."""
        self.nodes = nodes
        needed = {nodes[-1].index}
        for node in reversed(nodes):
            if node.index in needed:
                needed.update(node.sources)
        self._run = [node for node in nodes if node.index in needed]
        last_reader = {source: node.index for node in self._run for source in node.sources}
        self._released = {node.index: [s for s, reader in last_reader.items() if reader == node.index]
                          for node in self._run}

    @property
    def strides(self) -> list[float]:
        """Of every map of every row, in pixels."""
        return [s for node in self.nodes for s in (node.stride if isinstance(node.stride, tuple) else (node.stride,))]

    def forward(self, images: Tensor, **hints: Any) -> dict[str, tuple[Tensor, ...]]:
        """(B, 3, H, W) -> what the last row, the head, returns; hints: what it takes beside its maps, by name."""
        maps: dict[int, Any] = {IMAGE: images}
        for node in self._run:
            inputs = [maps[source] if index is None else maps[source][index]
                      for source, index in zip(node.sources, node.maps, strict=True)]
            more = hints if node is self._run[-1] else {}
            maps[node.index] = self[node.index](inputs if node.multi_input else inputs[0], **more)
            for source in self._released[node.index]:
                del maps[source]
        return maps[len(self) - 1]  # type: ignore[return-value]

    def fuse(self) -> None:
        """Remove training-only branches: auxiliary levels of the head, and the rows that only they read. Rows keep
        their numbers, and with them the names of their weights."""
        head = self.nodes[-1]
        if not hasattr(self[-1], "drop_auxiliary"):
            return
        kept = self[-1].drop_auxiliary()
        self._wire([*self.nodes[:-1], replace(head, sources=head.sources[:kept], maps=head.maps[:kept])])
        kept = {node.index for node in self._run}
        for index in range(len(self)):
            if index not in kept:
                self[index] = nn.Identity()


class Series(nn.Sequential):
    """A row's repeats, for layers that do not take the count themselves."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(*layers)
        self.out_channels = layers[-1].out_channels
        self.stride = prod(relative_stride(layer) for layer in layers)


def relative_stride(layer: nn.Module) -> float:
    """The stride that a layer declares; torch's own layers may state it per axis."""
    stride = getattr(layer, "stride", 1)
    return stride[0] if isinstance(stride, tuple) else stride


def output_strides(layer: nn.Module, base: float) -> float | tuple[float, ...]:
    """The stride in pixels of what a layer gives, of each map where it gives several; base: of what it reads first."""
    if isinstance(layer.out_channels, int):
        return _whole(base * relative_stride(layer))
    return tuple(_whole(base * stride) for stride in layer.stride)


def _whole(stride: float) -> float:
    return int(stride) if stride == int(stride) else stride
