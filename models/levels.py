"""A level finer than the base's finest: `--levels p2`, or `levels: p2` in a model file.

The rule: the base's last top-down step, from the map before its finest level to that level, is repeated once more at
half the stride, with half of each written width. The step is every row of the head part at the finest level's stride
that this level depends on, and the 1x1 convolution that narrows the coarser map before it is enlarged, where there is
one. In the copy the coarser map becomes the one from which the base itself goes on (the last row of the step that
others read; else the finest level), and a map of the backbone becomes the backbone's last one of half the stride.
An auxiliary head gets a level as well. There is no bottom-up step back: nothing of the base changes, so its weights
fit as they are and its own levels predict what they did. The rows stand behind all of the base's and before a neck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

from torch import nn

from models.graph import IMAGE, Node
from models.registry import LayerType
from models.rows import Row, find_layer
from utils.config import is_whole
from utils.errors import UserError

P2_STRIDE = 4  # pixels


@dataclass(frozen=True)
class Body:
    """The rows of a base before its head: as written, wired and built; backbone: how many of them it has; aliases:
    what names in rows stand for."""

    rows: list[Row]
    nodes: list[Node]
    layers: list[nn.Module]
    backbone: int
    aliases: dict[str, Any]


def finer_level(body: Body, head: Row, sources: Sequence[int], source: str) -> list[Row]:
    """The rows of the added level, to stand behind those of `body`; the head, changed in place, then reads it first,
    and its auxiliary part, where it has one, a map of its own.

    sources: the rows that the head reads; source: of the model, for messages. Raises `UserError` where the head takes
    no further level, where there is a level of stride 4 already and where the base has no top-down step to repeat.
    """
    kind, *_ = find_layer(head, body.aliases)
    if "added_levels" not in kind.signature.parameters:
        raise UserError(f"levels p2: the head {head.module} of {source} takes no further level; choose a base with a "
                        "head of YOLOv3 to v8, or write the level's rows into a model file", code="not-supported")
    heads = getattr(kind.cls, "heads", 1)
    lead = len(sources) // heads
    strides = [body.nodes[s].stride for s in sources]
    stride = strides[0]
    if any(isinstance(s, tuple) for s in strides):
        raise UserError(f"levels p2: the head of {source} reads a row that gives several maps; write the level's rows "
                        "into a model file", code="not-supported")
    if stride != min(strides):
        raise UserError(f"levels p2: the head of {source} must list its finest level first", code="not-supported")
    if stride <= P2_STRIDE:
        raise UserError(f"levels p2: {source} has a level of stride {stride} already; leave `levels` out",
                        code="not-supported")
    copies = _copied_step(body, [sources[i * lead] for i in range(heads)], stride, source)
    first = len(body.rows)
    number = {old: first + i for i, old in enumerate(copies)}
    head.sources = [s for i in range(heads)
                    for s in (number[sources[i * lead]], *sources[i * lead:(i + 1) * lead])]
    head.options = {**head.options, "added_levels": 1}
    return list(copies.values())


def with_finer_level(levels: list[int], inputs: int, kind: LayerType) -> list[int]:
    """`levels` of a neck, written for a base whose head reads so many `inputs`, as they are with the added level: it
    comes first, before those of the same part of the head, which are one further on. Anything that is no list of
    inputs stays, for the builder to refuse."""
    lead = inputs // getattr(kind.cls, "heads", 1)
    if not isinstance(levels, list) or not levels or any(not is_whole(i, 0, lead * (inputs // lead) - 1)
                                                         for i in levels):
        return levels
    return [levels[0] // lead * (lead + 1), *(i + i // lead + 1 for i in levels)]


def _copied_step(body: Body, finest: list[int], stride: float, source: str) -> dict[int, Row]:
    """Copies of the rows of the step that ends in the rows `finest`, by the numbers of their originals."""
    step = _ancestors(body, finest, stride)
    feeding = [s for i in step for s in body.nodes[i].sources if s not in step]
    step += [s for s in dict.fromkeys(feeding) if s >= body.backbone and body.nodes[s].stride != stride
             and _is_1x1(body.layers[s])]
    step.sort()
    outside = {s for node in body.nodes if node.index not in step for s in node.sources}
    onward = max((i for i in step if i in outside), default=finest[0])
    lateral = max((i for i in range(body.backbone) if body.nodes[i].stride == stride / 2), default=None)
    fed = {body.nodes[s].stride if s != IMAGE else 1 for i in step for s in body.nodes[i].sources if s not in step}
    if lateral is None or fed != {stride, 2 * stride} or any(m is not None for i in step for m in body.nodes[i].maps):
        raise UserError(f"levels p2: {source} has no top-down step to stride {stride:g} that could be repeated at "
                        f"{stride / 2:g}; write the level's rows into a model file", code="not-supported")
    number = {old: len(body.rows) + k for k, old in enumerate(step)}
    level = f"p{log2(stride / 2):g}"
    named = {row.name for row in body.rows}
    copies = {}
    for i in step:
        sources: list[int | str] = [
            number[s] if s in number else lateral if body.nodes[s].stride == stride else onward
            for s in body.nodes[i].sources]
        name = level if i == finest[0] and level not in named else None
        copies[i] = _halved(body.rows[i], sources, name, body.aliases)
    return copies


def _ancestors(body: Body, rows: list[int], stride: float) -> list[int]:
    """`rows` and what they depend on, of the head part and of that stride."""
    found, open_rows = [], list(rows)
    while open_rows:
        i = open_rows.pop()
        if i >= body.backbone and body.nodes[i].stride == stride and i not in found:
            found.append(i)
            open_rows += body.nodes[i].sources
    return found


def _is_1x1(layer: nn.Module) -> bool:
    conv = getattr(layer, "conv", None)
    return isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1)


def _halved(row: Row, sources: list[int | str], name: str | None, aliases: dict[str, Any]) -> Row:
    """A copy of a row that reads other rows and is half as wide, its aliases replaced by what they stand for."""
    kind, args, options = find_layer(row, aliases)
    bound = kind.signature.bind(*args, **options)
    for width in kind.width:
        if isinstance(bound.arguments.get(width), int):
            bound.arguments[width] = max(bound.arguments[width] // 2, 1)
    return Row(f"levels p2, after {row.where}", sources, row.repeats, row.module, list(bound.args), name,
               dict(bound.kwargs))
