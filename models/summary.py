"""The table of a model's layers: what each reads, holds, gives and costs."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.catalogue import resolve
from models.detector import Detector
from models.graph import IMAGE
from utils.structures import Raw


@dataclass
class LayerLine:
    """One row: index, what it reads, module name, parameters, output shape (channels, height, width), FLOPs."""

    index: int
    sources: str
    module: str
    params: int
    shape: str
    flops: int


def summarise(model: Detector, image_size: int | tuple[int, int] | None = None) -> list[LayerLine]:
    """What every layer costs for one image of `image_size` (side, or height and width) pixels; None: the model's frame.

    A FLOP is half a multiply-add of a convolution or matrix product; norms, activations and pooling are not counted.
    Runs on a copy without data, so it costs no memory and hardly any time.
    """
    frame = model.frame
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size or frame.up(frame.resolve())
    with torch.device("meta"):
        twin = Detector(resolve(model.config)).eval().requires_grad_(False)
    shapes: dict[int, str] = {}

    def note(index: int):
        return lambda _layer, _inputs, output: shapes.__setitem__(index, _shape(output))

    handles = [layer.register_forward_hook(note(i)) for i, layer in enumerate(twin.model)]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, 3, height, width, device="meta"))
    for handle in handles:
        handle.remove()
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return [LayerLine(node.index, ", ".join(_source(s, k, twin) for s, k in zip(node.sources, node.maps, strict=True)),
                      _label(node.module, layer, node.name), sum(p.numel() for p in layer.parameters()),
                      shapes.get(node.index, "not used"), flops.get(f"Detector.model.{node.index}", 0))
            for node, layer in zip(twin.model.nodes, twin.model, strict=True)]


def smallest_normed(model: Detector, image_size: tuple[int, int]) -> int:
    """The fewest positions (height x width) that a batch norm sees of one image of `image_size`; 0 without any."""
    with torch.device("meta"):
        twin = Detector(resolve(model.config)).eval().requires_grad_(False)
    seen: list[int] = []
    for norm in (m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:].numel()))
    with torch.no_grad():
        twin(torch.empty(1, 3, *image_size, device="meta"))
    return min(seen, default=0)


def format_summary(model: Detector, lines: list[LayerLine]) -> str:
    """The table as text, totals last."""
    header = f"{'row':>4} {'from':<14} {'module':<20} {'params':>12} {'output':<22} {'GFLOPs':>8}"
    body = [f"{x.index:>4} {x.sources:<14} {x.module:<20} {x.params:>12,} {x.shape:<22} {x.flops / 1e9:>8.3f}"
            for x in lines]
    params, flops = sum(x.params for x in lines), sum(x.flops for x in lines)
    neck = model.config["neck"]
    total = (f"{model.config.get('name', 'model')}: {len(lines)} layers, {params:,} parameters, "
             f"{flops / 1e9:.1f} GFLOPs, {model.num_classes} classes, strides {', '.join(map(str, model.strides))}, "
             f"neck {neck['type'] if neck else 'pan'}" + (", level p2 added" if model.config.get("levels") else ""))
    return "\n".join([header, *body, total])


def _source(source: int, chosen: int | None, model: Detector) -> str:
    if source == IMAGE:
        return "image"
    return (model.model.nodes[source].name or str(source)) + ("" if chosen is None else f".{chosen}")


def _label(module: str, layer: nn.Module, name: str | None) -> str:
    repeats = f" x{len(layer)}" if isinstance(layer, nn.Sequential) else ""
    return f"{module}{repeats}" + (f" ({name})" if name else "")


def _shape(output: object) -> str:
    if isinstance(output, torch.Tensor):
        return " x ".join(map(str, output.shape[1:]))
    if isinstance(output, list | tuple):
        return ", ".join(map(_shape, output))
    if isinstance(output, Raw):
        output = output.maps
    return " ".join(f"{name}:{len(maps)}" for name, maps in output.items())
