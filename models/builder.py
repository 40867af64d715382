"""From a resolved config to layers: rows are bound to what layers declared; channels and strides are derived."""

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import nn

from models import layers, necks
from models.catalogue import NO_NECK
from models.config_checks import MAX_CHANNELS, check_size, check_stride
from models.graph import IMAGE, Graph, Node, Series, output_strides
from models.heads import Head, anchor, dfl, retina, salience_detr, ssd
from models.layers import extras, mapper, rearrange
from models.layers.conv import activation, default_activation
from models.levels import Body, finer_level
from models.necks import forks
from models.necks.start import STARTS
from models.registry import LayerType, choose, known_layers, known_necks, lookup
from models.rows import Row, aliases_of, find_layer, parse_row
from utils.config import is_whole
from utils.errors import UserError, nearest, shown

# importing them fills the registry
DECLARED = (layers, extras, forks, mapper, rearrange, necks, anchor, dfl, retina, salience_detr, ssd)


@dataclass(frozen=True)
class Scale:
    """How written widths and repeats become real ones."""

    depth: float
    width: float
    max_channels: int | None

    def channels(self, written: int) -> int:
        """The width rounded up to a multiple of 8."""
        return ceil(min(written, self.max_channels or written) * self.width / 8) * 8

    def repeats(self, written: int) -> int:
        return max(round(written * self.depth), 1) if written > 1 else written


def build_graph(config: dict[str, Any]) -> Graph:
    """The layers of a resolved config (`models.catalogue.resolve`). Raises `UserError` naming the row and the cause."""
    rows = _rows(config)
    check_size(config["source"], layers=sum(_scale(config).repeats(row.repeats) for row in rows))
    body = _Assembly(_scale(config), aliases_of(config))
    with default_activation(_activation(config)):
        for row in rows[:-1]:
            body.append(row)
        for row in _last_rows(config, rows, body):
            body.append(row)
    if not isinstance(body.layers[-1], Head):
        raise UserError(f"{rows[-1]}: the last row must be a head such as Detect or IDetect", code="no-head")
    graph = Graph(body.layers, body.nodes)
    for name in config.get("frozen", []):
        graph[_find_row(name, body.nodes, config["source"])].requires_grad_(False)
    return graph


class _Assembly:
    """Rows made into layers one after the other, each wired to those before it."""

    def __init__(self, scale: Scale, aliases: dict[str, Any]) -> None:
        self.scale, self.aliases = scale, aliases
        self.layers: list[nn.Module] = []
        self.nodes: list[Node] = []
        self._parameters = 0

    def append(self, row: Row) -> None:
        """Build the layer of a row. Raises `UserError` naming the row and the cause."""
        try:
            links = _link(row, len(self.nodes), self.nodes)
            layer, kind = _build_row(row, links, self.nodes, self.scale, self.aliases)
            stride = output_strides(layer, _read(links[0], self.nodes)[1])
            for one in stride if isinstance(stride, tuple) else (stride,):
                check_stride(one)
        except Exception as error:  # a row is the user's, and so may be the layer (--debug shows the traceback)
            text = str(error) if len(str(error)) <= 600 else str(error)[:600] + " ..."
            code = error.code if isinstance(error, UserError) else "bad-row"
            raise UserError(f"{row}: {text or type(error).__name__}", code=code) from error
        self.layers.append(layer)
        self._parameters += sum(p.numel() for p in layer.parameters())
        check_size(str(row), parameters=self._parameters)
        channels = layer.out_channels if isinstance(layer.out_channels, int) else tuple(layer.out_channels)
        sources, maps = zip(*links, strict=True)
        self.nodes.append(Node(len(self.nodes), row.name, kind.name, sources, maps, kind.multi_input, channels, stride))


def _find_row(name: str, nodes: list[Node], source: str) -> int:
    """The number of the row that `frozen` names."""
    names = [node.name for node in nodes if node.name]
    if name not in names:
        hint = nearest(name, names) or "names are the fifth entry of a row"
        raise UserError(f"{source}: frozen: no row is named {shown(name)}; {hint}", code="unknown-name")
    return next(node.index for node in nodes if node.name == name)


def _activation(config: dict[str, Any]) -> str:
    """The file's default activation. Raises `UserError` where there is no such activation."""
    name = str(config.get("activation") or "SiLU")
    try:
        activation(name)
    except ValueError as error:
        raise UserError(f"{config['source']}: {error}", code="unknown-name") from None
    return name


def _scale(config: dict[str, Any]) -> Scale:
    return Scale(config["depth_multiple"], config["width_multiple"], config["max_channels"])


def _rows(config: dict[str, Any]) -> list[Row]:
    """The rows of a config as its lists have them, the head with the options that were asked for."""
    written = [*config.get("backbone", []), *config["head"]]
    rows = [parse_row(entry, f"{config['source']} row {i}") for i, entry in enumerate(written)]
    _check_options(rows[-1], config["options"], aliases_of(config))
    rows[-1].options = {**rows[-1].options, **config["options"]}
    return rows


def _last_rows(config: dict[str, Any], rows: list[Row], body: _Assembly) -> list[Row]:
    """What follows the rows of the base in `body`: those of an added level, the neck, and the head that reads them."""
    head, index = rows[-1], len(rows) - 1
    head.sources = [s if isinstance(s, str) or s >= 0 else s + index for s in head.sources]
    added: list[Row] = []
    if config.get("levels"):
        try:
            sources = [source for source, _ in _link(head, index, body.nodes)]
        except UserError as error:
            raise UserError(f"{head}: {error}", code=error.code) from None
        base = Body(rows[:-1], body.nodes, body.layers, len(config.get("backbone", [])), body.aliases)
        added = finer_level(base, head, sources, config["source"])
    last = [*added, head]
    if config["neck"]:
        last.insert(-1, _neck_row(head, index + len(added), config["neck"], _lead(config, head)))
    return last


def _check_options(head: Row, options: dict[str, Any], aliases: dict[str, Any]) -> None:
    """Raises `UserError` for an option that the head's constructor does not have."""
    module = str(aliases.get(head.module, head.module))
    taken = [kind.signature.parameters for kind in lookup(module)] if module in known_layers() else []
    for option, value in options.items():
        if taken and not any(option in parameters for parameters in taken):
            raise UserError(f"{head}: this head has no {option}; drop {option}={shown(value)}",
                            code="bad-arguments")


def _lead(config: dict[str, Any], head: Row) -> int:
    """How many of the head's inputs are its levels: auxiliary heads read further maps."""
    anchors = config.get("anchors")
    if isinstance(anchors, list) and not config.get("levels"):
        return len(anchors)
    try:
        kind, *_ = find_layer(head, aliases_of(config))
    except UserError as error:
        raise UserError(f"{head}: {error}", code=error.code) from None
    return len(head.sources) // getattr(kind.cls, "heads", 1)


def _neck_row(head: Row, index: int, neck: dict[str, Any], lead: int) -> Row:
    """The neck, as row `index` in front of the head: it reads what the head reads and takes the place of the finest
    level.

    `levels` picks among the head's inputs, the one to replace first; by default the `lead` first ones. `start` says how
    its weights begin (`models.necks.start`).
    """
    options, known = dict(neck), known_necks()
    kind = options.pop("type")
    choose(f"neck {kind}: start", options.pop("start", "published"), STARTS)
    sources = head.sources
    levels = options.pop("levels", None) or list(range(min(lead, len(sources))))
    last = len(sources) - 1
    if not isinstance(levels, list) or any(not is_whole(i, 0, last) for i in levels) or len(set(levels)) < 2:
        raise UserError(f"neck {kind}: levels {shown(levels)} must be two or more of 0 to {last}", code="bad-value")
    module = known[kind].name if kind in known else kind
    row = Row(f"neck {kind}", [sources[i] for i in levels], 1, module, [], options=options)
    if module not in known_layers():
        choose("neck", kind, [NO_NECK, *known])
    head.sources = [index if i == levels[0] else s for i, s in enumerate(sources)]
    return row


Link = tuple[int, int | None]  # a row, and which of its maps where it gives several


def _link(row: Row, index: int, nodes: list[Node]) -> list[Link]:
    """What a row reads: a name alone means all maps of a row that gives several, `name.1` its second one.

    Raises `UserError` for rows and maps that are not there or come later.
    """
    named = {node.name: node.index for node in nodes if node.name}
    if row.name in named:
        raise UserError(f"the name {row.name!r} is taken by row {named[row.name]}", code="name-taken")
    links: list[Link] = []
    for source in row.sources:
        chosen = None
        if isinstance(source, str):
            source, chosen = _find(source, named, nodes)
        elif source < 0:
            source += index
        if not (0 <= source < index or (source == IMAGE and index == 0)):
            raise UserError(f"reads row {source}, which is not before row {index}", code="bad-row")
        several = source != IMAGE and isinstance(nodes[source].channels, tuple)
        links += [(source, k) for k in range(len(nodes[source].channels))] if several and chosen is None else [
            (source, chosen)]
    return links


def _find(source: str, named: dict[str, int], nodes: list[Node]) -> Link:
    """The row of a name, or of `name.k` its map k."""
    if source in named:
        return named[source], None
    name, _, number = source.rpartition(".")
    if name not in named or not number.isdecimal():
        hint = nearest(source, list(named))
        raise UserError(f"no earlier row is named {source!r}{'; ' + hint if hint else ''}", code="unknown-name")
    channels = nodes[named[name]].channels
    count = len(channels) if isinstance(channels, tuple) else 1
    if count == 1 or int(number) >= count:
        raise UserError(f"{source!r}: the row {name!r} gives {count} map{'s' * (count > 1)}"
                        f"{f', 0 to {count - 1}' if count > 1 else ''}", code="unknown-name")
    return named[name], int(number)


def _read(link: Link, nodes: list[Node]) -> tuple[int, float]:
    """Channels and stride of what a row reads."""
    return (3, 1) if link[0] == IMAGE else nodes[link[0]].output(link[1])


def _build_row(row: Row, links: list[Link], nodes: list[Node], scale: Scale,
               aliases: dict[str, Any]) -> tuple[nn.Module, LayerType]:
    channels, strides = (list(values) for values in zip(*(_read(link, nodes) for link in links), strict=True))
    kind, args, options = find_layer(row, aliases)
    bound = kind.signature.bind(*args, **options)
    for width in kind.width:
        written = bound.arguments.get(width)
        if written is not None:
            if not is_whole(written, 1, MAX_CHANNELS):
                raise UserError(f"{width} must be a whole number of channels from 1 to {MAX_CHANNELS:,}, not "
                                f"{shown(written)}", code="bad-value")
            bound.arguments[width] = scale.channels(written)
    keywords = dict(bound.kwargs)
    if kind.wants("strides"):
        keywords["strides"] = strides
    if kind.wants("rows"):
        keywords["rows"] = [node.channels for node in nodes]
    copies = scale.repeats(row.repeats)
    if kind.repeats:
        keywords[kind.repeats], copies = copies, 1
    if not kind.multi_input and len(channels) != 1:
        raise UserError(f"reads one map, but {len(channels)} are given", code="bad-row")

    def make(read: list[int] | int) -> nn.Module:
        return _declared(kind.cls(read, *bound.args, **keywords))

    first = channels if kind.multi_input else channels[0]
    if _may_be_huge(sum(channels), [*bound.args, *keywords.values(), copies]):
        with torch.device("meta"):  # counts without allocating
            check_size(str(row), parameters=copies * sum(p.numel() for p in make(first).parameters()))
    made = [make(first)]
    if kind.multi_input:
        return made[0], kind
    made.extend(make(made[-1].out_channels) for _ in range(copies - 1))
    return made[0] if len(made) == 1 else Series(made), kind


def _may_be_huge(channels: int, values: list[Any]) -> bool:
    """Whether a layer that reads so many channels with these arguments might not fit into memory; a bound, since a
    kernel enters squared and a width times the channels read."""
    return channels * prod(v * v for v in values if isinstance(v, int | float) and v > 1) > 1e13


def _declared(layer: nn.Module) -> nn.Module:
    """The layer, checked to declare its output channels, which a layer of a plugin may have omitted."""
    given, strides = getattr(layer, "out_channels", None), getattr(layer, "stride", 1)
    several = isinstance(given, list | tuple) and given and all(isinstance(n, int) for n in given)
    if not isinstance(given, int) and not several:
        raise UserError(f"{type(layer).__name__} must set out_channels, the number of its output channels, or a list "
                        "of them where it gives several maps", code="bad-layer")
    if several and (not isinstance(strides, list | tuple) or len(strides) != len(given)):
        raise UserError(f"{type(layer).__name__} gives {len(given)} maps, so it must set stride to as many numbers",
                        code="bad-layer")
    return layer
