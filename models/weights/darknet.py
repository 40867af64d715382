"""YOLOR's released files: the layers of a Darknet cfg by number (`module_list.N.*`), carried into our rows by order.

Such a file holds no cfg, anchors or names. Which network it is shows in its shapes; the order of its layers differs
from ours inside some blocks and at the end, where each level's last 3x3 convolution stands beside its 1x1.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.builder import build_graph
from models.catalogue import resolve
from models.graph import Graph
from models.heads.anchor import AnchorDetect
from models.layers.blocks import C3, Bottleneck, BottleneckCSPB, BottleneckCSPC
from models.layers.conv import Conv
from models.layers.pooling import SPPCSPC
from models.weights.originals import Original
from models.weights.transfer import COUNTER
from utils.class_lists import COCO
from utils.commands import command
from utils.errors import UserError

Config = dict[str, Any]

NETWORKS = ("yolor-csp", "yolov4-csp", "yolor-p6-csp", "yolor-w6-csp", "yolor-csp-x-darknet")
NORM = [1e-4, 0.03]  # eps and momentum of every batch norm of that code base
_ENTRY = re.compile(r"module_list\.(\d{1,6})\.(Conv2d\.(?:weight|bias)|BatchNorm2d\.\w+|implicit)")
_ORDER = ("Conv2d.weight", "Conv2d.bias", "BatchNorm2d.weight", "BatchNorm2d.bias", "BatchNorm2d.running_mean",
          "BatchNorm2d.running_var", "BatchNorm2d.num_batches_tracked", "implicit")
_PARTS = {  # blocks whose parts a cfg lists in another order than we declare them
    Bottleneck: ("cv1", "cv2"), C3: ("cv2", "cv1", "m", "cv3"), BottleneckCSPB: ("cv1", "cv2", "m", "cv3"),
    BottleneckCSPC: ("cv2", "cv1", "m", "cv3", "cv4"), SPPCSPC: ("cv2", "cv1", "cv3", "cv4", "cv5", "cv6", "cv7")}


def is_darknet(original: Original) -> bool:
    """Whether a state dict names its tensors by the sections of a Darknet cfg."""
    return any(_ENTRY.fullmatch(key) for key in original.state)


def translate(original: Original, cfg: str | Path | Config | None = None) -> tuple[Original, Config]:
    """The file under our names, and the config of the network that it holds.

    cfg: that network, where it is none of `NETWORKS`. Raises `UserError` where no network has these layers.
    """
    theirs = _in_order(original.state)
    for name in [cfg] if cfg is not None else NETWORKS:
        config = resolve(name)
        classes = _count_classes(theirs, config)
        if classes is None:
            continue
        names = original.names or config["names"] if len(original.names or config["names"]) == classes else None
        unnamed = names is None or names == [f"class{i}" for i in range(classes)]
        config = resolve(config, classes, COCO if unnamed and classes == len(COCO) else names)
        with torch.device("meta"):
            graph = build_graph(config)
        shapes, order = graph.state_dict(), list(_keys(graph))
        if len(order) == len(theirs) and all(
                key.rpartition(".")[2] == our.rpartition(".")[2] and value.shape == shapes[our].shape
                for (key, value), our in zip(theirs.items(), order, strict=True)):
            return _renamed(original, dict(zip(order, theirs.values(), strict=True)), graph), config
    tried = f"not {str(cfg)[:80]}" if cfg is not None else f"none of {', '.join(NETWORKS)}"
    raise UserError(f"its {len(theirs)} tensors of Darknet layers (module_list.N.*) are those of another network, "
                    f"{tried}; name the one it holds: load_model(path, cfg=...), {command('models.convert')} --cfg ...",
                    code="unknown-model")


def _in_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by number of their section, without the counters of batch norms, which old files lack."""
    places = {key: (int(found[1]), _ORDER.index(found[2])) for key in state
              if (found := _ENTRY.fullmatch(key)) and found[2] in _ORDER}
    strange = next((key for key in state if key not in places), None)
    if strange is not None:
        raise UserError(f"holds {strange[:80]!r} among Darknet layers (module_list.N.*)", code="unknown-model")
    return {key: state[key] for key in sorted(places, key=places.__getitem__) if not key.endswith(COUNTER)}


def _count_classes(theirs: dict[str, Tensor], config: Config) -> int | None:
    """From the last convolution, the only kind with a bias: anchors per cell times (5 + classes)."""
    bias = next((value for key, value in reversed(theirs.items()) if key.endswith("Conv2d.bias")), None)
    anchors = config.get("anchors")
    per = len(anchors[0]) // 2 if isinstance(anchors, list) else 3
    return len(bias) // per - 5 if bias is not None and len(bias) % per == 0 and len(bias) // per > 5 else None


def _keys(graph: Graph) -> Iterator[str]:
    """The graph's tensors in the order of the cfg."""
    *rows, head = graph
    levels = graph.nodes[-1].sources
    if not isinstance(head, AnchorDetect) or not all(isinstance(graph[i], Conv) for i in levels):
        raise UserError("a network of Darknet layers ends in an anchor head behind one convolution per level",
                        code="unknown-model")
    for index, row in enumerate(rows):
        if index not in levels:
            yield from _unit(row, str(index))
    name = str(len(rows))
    for part in ("ia", "im"):
        yield from (f"{name}.{part}.{i}.implicit" for i in range(len(getattr(head, part, ()))))
    for i, level in enumerate(levels):
        yield from _unit(graph[level], str(level))
        yield from (f"{name}.m.{i}.{kind}" for kind in ("weight", "bias"))


def _unit(module: nn.Module, name: str) -> Iterator[str]:
    """The tensors of a row or of a part of one."""
    if isinstance(module, Conv):
        yield from (f"{name}.{key}" for key in module.state_dict() if not key.endswith(COUNTER))
    elif type(module) in _PARTS:
        for part in _PARTS[type(module)]:
            yield from _unit(getattr(module, part), f"{name}.{part}")
    elif isinstance(module, nn.Sequential):
        for key, child in module.named_children():
            yield from _unit(child, f"{name}.{key}")
    elif module.state_dict():
        raise UserError(f"row {name} ({type(module).__name__}) is a block whose order of Darknet layers is not known",
                        code="unknown-model")


def _renamed(original: Original, state: dict[str, Tensor], graph: Graph) -> Original:
    """The file as one of ours, by name; the pooling's widest window comes first there and last here."""
    norms = {}
    for name, module in graph.named_modules():
        if isinstance(module, SPPCSPC):
            weight = state[f"{name}.cv5.conv.weight"]
            blocks = weight.chunk(len(module.m) + 1, 1)  # (c2, c, 1, 1) of each window
            state[f"{name}.cv5.conv.weight"] = torch.cat(blocks[::-1], 1)
        elif isinstance(module, nn.BatchNorm2d):
            norms[f"model.{name}"] = NORM
            state[f"{name}.{COUNTER}"] = torch.tensor(0)  # of a training elsewhere
    whole = {f"model.{key}": state[key] for key in graph.state_dict()}
    return replace(original, state=whole, norms=norms)
