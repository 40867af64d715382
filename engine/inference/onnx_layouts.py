"""ONNX files of Ultralytics, YOLOv5 and YOLOv7: their output layout, and its decoding to boxes and scores.

Legend: B images, N candidate boxes of one image, C classes, cells: of all levels together.
Two layouts are read, distinguished by shape: (B, 4 + C, N) with N = cells, as YOLOv8 writes cx, cy, w, h in pixels and
class scores; and (B, N, 5 + C) with N = 3 * cells, as YOLOv5 and YOLOv7 write cx, cy, w, h, objectness, class scores.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy
from utils.config import MAX_CLASSES
from utils.errors import UserError, printable, shown

LEVELS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))  # strides of these code bases' models
MAX_LITERAL = 1 << 21  # characters of a metadata entry
READ = ("of other programs' files those of Ultralytics, YOLOv5 and YOLOv7 are read, where one output holds decoded "
        "boxes (B, 4 + classes, N) or (B, N, 5 + classes) and NMS is not inside; or give the .pt that it was made from")


@dataclass(frozen=True)
class Slot:
    """An input or output of a file: name, shape (None where free) and onnxruntime's name of its type."""

    name: str
    shape: tuple[int | None, ...]
    type: str


@dataclass(frozen=True)
class Layout:
    """Input and output of a file. anchors: per cell in the (B, N, 5 + C) layout, 0 in the (B, 4 + C, N) layout."""

    input: str
    output: str
    half: bool
    names: tuple[str, ...]
    strides: tuple[int, ...]
    size: tuple[int, int] | None
    batch: int | None
    anchors: int
    imgsz: tuple[int, ...] = ()

    def decode(self, answer: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels and scores (B, N, C). With one class the score is the objectness."""
        answer = answer.float()
        if not self.anchors:
            answer = answer.transpose(1, 2)  # (B, N, 4 + C)
            scores = answer[..., 4:]
        elif len(self.names) == 1:
            scores = answer[..., 4:5]
        else:
            scores = answer[..., 4:5] * answer[..., 5:]
        if scores.numel() and not (scores.amin() >= -0.01 and scores.amax() <= 1.01):
            raise UserError(f"{path}: its scores lie between {scores.amin():.3g} and {scores.amax():.3g}, not in [0, "
                            "1], so they are not decoded; export it with its boxes decoded", "unsupported-layout")
        return cxcywh_to_xyxy(answer[..., :4]), scores.contiguous()


def find_layout(inputs: Sequence[Slot], outputs: Sequence[Slot], metadata: Mapping[str, str], path: Path,
                run: Callable[[str, dict[str, np.ndarray]], np.ndarray]) -> Layout:
    """The layout of a file that `export.py` did not write. run: (output, inputs) -> the file's output, called once if
    shapes are free. Raises `UserError` for any other layout.
    """
    def refuse(why: str) -> UserError:
        return UserError(f"{path}: was not written by this project's export.py, and {why}; {READ}",
                         "unsupported-layout")

    given = inputs[0] if len(inputs) == 1 else None
    if given is None or len(given.shape) != 4 or given.shape[1] not in (3, None) \
            or given.type not in ("tensor(float)", "tensor(float16)"):
        raise refuse(f"takes {_said(inputs)}, not one batch of images (B, 3, H, W)")
    task = metadata.get("task", "detect")
    if task != "detect":
        raise refuse(f"is a model of the task {printable(task)[:40]!r}")
    output = _output(outputs)
    if isinstance(output, str):
        raise refuse(output)
    names = _names(metadata, path)
    imgsz, stride = (_integers(metadata, key, path) for key in ("imgsz", "stride"))
    size = (given.shape[2], given.shape[3]) if given.shape[2] and given.shape[3] else None
    shape, probe = output.shape, size
    if None in shape[1:] or size is None:
        probe = size or (256, 256)
        images = np.zeros((given.shape[0] or 1, 3, *probe), np.float16 if "16" in given.type else np.float32)
        shape = run(output.name, {given.name: images}).shape
    found = _match(shape, probe, max(stride, default=None))
    if isinstance(found, str):
        raise refuse(f"{found} for {probe[0]} x {probe[1]} pixels")
    strides, anchors = found
    count = shape[2] - 5 if anchors else shape[1] - 4
    if names is not None and len(names) != count:
        raise refuse(f"its output {shown(tuple(shape))} is for {count} classes, its metadata names {len(names)}")
    names = names or tuple(f"class{i}" for i in range(count))
    return Layout(given.name, output.name, "16" in given.type, names, strides, size, given.shape[0], anchors, imgsz)


def _said(slots: Sequence[Slot]) -> str:
    return ", ".join(f"{printable(s.name)[:30]} {shown(s.shape)[:60]}" for s in slots[:4])


def _output(outputs: Sequence[Slot]) -> Slot | str:
    """The output that holds all boxes, or why there is none. YOLOv5 and v7 may output the raw maps of levels too."""
    if any(s.name in ("num_dets", "det_boxes", "det_scores") or (len(s.shape) == 2 and s.shape[1] == 7)
           for s in outputs):
        return f"chooses detections itself (NMS inside; outputs {_said(outputs)})"
    flat = [s for s in outputs if len(s.shape) == 3]
    if len(flat) == 1 and all(len(s.shape) == 5 for s in outputs if s is not flat[0]):
        return flat[0]
    return f"gives {_said(outputs)}, not one output of decoded boxes"


def _match(shape: Sequence[int], size: tuple[int, int], stride: int | None) -> tuple[tuple[int, ...], int] | str:
    """(strides, anchors per cell) of an output's shape, or why it is not supported."""
    if len(shape) != 3:
        return f"its output has the shape {shown(tuple(shape))}"
    for levels in LEVELS:
        if stride not in (None, levels[-1]) or any(side % levels[-1] for side in size):
            continue
        cells = sum((size[0] // s) * (size[1] // s) for s in levels)
        if shape[2] == cells and 5 <= shape[1] <= 4 + MAX_CLASSES:
            return levels, 0
        if shape[1] == 3 * cells and 6 <= shape[2] <= 5 + MAX_CLASSES:
            return levels, 3
        if shape[1] == cells:
            return f"its output {shown(tuple(shape))} has one row per cell, as YOLOX gives undecoded grids,"
    if shape[2] in (6, 7) and shape[1] <= 1000:
        return f"chooses detections itself (NMS inside; its output is {shown(tuple(shape))})"
    return f"its output {shown(tuple(shape))} fits the cells of no levels that are known"


def _literal(metadata: Mapping[str, str], key: str) -> Any:
    """A metadata entry that is a Python literal; None if absent, `...` if invalid. Nothing is evaluated."""
    text = metadata.get(key)
    if not text:
        return None
    try:
        return ast.literal_eval(text) if len(text) <= MAX_LITERAL else ...
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ...


def _names(metadata: Mapping[str, str], path: Path) -> tuple[str, ...] | None:
    value = _literal(metadata, "names")
    if isinstance(value, dict):
        value = [value.get(i) for i in range(len(value))] if len(value) <= MAX_CLASSES else ...
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CLASSES or not all(
            isinstance(name, str) and len(name) <= 1000 for name in value):
        raise UserError(f"{path}: its metadata `names` are no class names: {shown(metadata['names'])[:120]}; export it "
                        "again", "corrupt-metadata")
    return tuple(map(printable, value))


def _integers(metadata: Mapping[str, str], key: str, path: Path) -> tuple[int, ...]:
    value = _literal(metadata, key)
    values = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(values) > 8 or not all(isinstance(v, int | float) and v == v and 0 < v <= 1 << 16 for v in values):
        raise UserError(f"{path}: its metadata `{key}` is {shown(metadata[key])[:120]}, not a number of pixels; export "
                        "it again", "corrupt-metadata")
    return tuple(int(v) for v in values)


def as_input(images: Tensor, half: bool) -> np.ndarray:
    """Images in [0, 1] as a numpy array in the precision that the file takes."""
    return images.to(torch.float16 if half else torch.float32).cpu().numpy()
