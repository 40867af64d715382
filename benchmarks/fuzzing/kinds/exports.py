"""Exported files with corrupted metadata, outputs or bytes."""

import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzzing.kind import Kind, read_facts, write_facts
from benchmarks.fuzzing.kinds.checkpoints import packed
from benchmarks.fuzzing.kinds.commands import run_inside
from benchmarks.fuzzing.kinds.tiny import DETECT, use, write_image
from benchmarks.fuzzing.mutate import as_json, junk, pick, spoil_bytes, spoil_tree
from engine.inference.metadata import METADATA_KEY
from engine.inference.runtimes.open import load_runtime
from utils.errors import printable

CARD = {
    "names": ["person", "car", "traffic light"], "strides": [8, 16, 32], "size": [64, 64], "batch": 1, "half": False,
    "device": "", "trained": {"data": "data.yaml", "imgsz": [64]}, "select": "nms", "format": "assn-export/1",
}
ULTRALYTICS = {
    "names": "{0: 'person', 1: 'car'}", "stride": "32", "imgsz": "[64, 64]", "task": "detect", "batch": "1",
    "author": "Ultralytics", "version": "8.3.0",
}


def onnx_file(
    boxes: np.ndarray, scores: np.ndarray, names: tuple[str, str] = ("boxes", "scores"),
    shape: tuple[Any, ...] = (1, 3, 64, 64),
) -> Any:
    """A model that gives constants, whatever image it gets."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {
        np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float64): TensorProto.DOUBLE,
        np.dtype(np.int64): TensorProto.INT64, np.dtype(np.float16): TensorProto.FLOAT16,
    }
    outputs = [
        helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in zip(names, (boxes, scores), strict=True)
    ]
    nodes = [helper.make_node("Identity", [f"{n}_0"], [n]) for n in names]
    nodes.append(helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0))
    held = [numpy_helper.from_array(a, f"{n}_0") for n, a in zip(names, (boxes, scores), strict=True)]
    outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)], outputs, held
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Onnx(Kind):
    """Metadata of other types, outputs of other shapes, types and values, changed bytes."""

    name, weight = "onnx", 2.0

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        boxes = rng.uniform(0, 64, (1, 84, 4)).astype(np.float32)
        scores = rng.random((1, 84, 3)).astype(np.float32)
        names, shape = ("boxes", "scores"), (1, 3, 64, 64)
        if rng.random() < 0.3:
            boxes = spoiled_output(rng, boxes)
        if rng.random() < 0.3:
            scores = spoiled_output(rng, scores)
        if rng.random() < 0.1:
            names = pick(rng, (("output0", "output1"), ("boxes", "score"), ("scores", "boxes")))
        if rng.random() < 0.1:
            shape = pick(rng, ((1, 3, 32, 64), (2, 3, 64, 64), (1, 1, 64, 64), ("b", 3, "h", "w"), (1, 3), ()))
        model = onnx_file(boxes, scores, names, shape)
        self.describe(rng, model)
        data = model.SerializeToString()
        (folder / "model.onnx").write_bytes(spoil_bytes(rng, data) if rng.random() < 0.25 else data)
        write_image(folder / "image.jpg")
        write_facts(folder, detect=bool(rng.random() < 0.4))

    def describe(self, rng: np.random.Generator, model: Any) -> None:
        if rng.random() < 0.15:
            for key, value in ULTRALYTICS.items():
                spoiled = printable(str(junk(rng))[:3000])
                model.metadata_props.add(key=key, value=value if rng.random() < 0.7 else spoiled)
        elif rng.random() < 0.95:
            model.metadata_props.add(key=METADATA_KEY, value=spoiled_metadata(rng))

    def attempt(self, folder: Path) -> None:
        if read_facts(folder)["detect"]:
            run_inside("detect", ["--weights", "model.onnx", *DETECT])
        else:
            use(load_runtime("model.onnx", "cpu"))


def spoiled_metadata(rng: np.random.Generator) -> str:
    """The JSON that describes an exported file; every third is as it should be."""
    chance = rng.random()
    if chance < 0.3:
        return json.dumps(CARD)
    data = as_json(spoil_tree(rng, CARD))
    if chance > 0.9:
        data = spoil_bytes(rng, data)
    return data.decode("utf-8", "replace").replace("\0", " ")


def spoiled_output(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Of another shape or type, or with values that are no boxes or scores."""
    ways = (
        lambda a: a[..., :1],
        lambda a: a[:, :0],
        lambda a: a[0],
        lambda a: a.reshape(-1),
        lambda a: a.astype(np.int64),
        lambda a: a.astype(np.float64),
        lambda a: np.full_like(a, np.nan),
        lambda a: np.full_like(a, np.inf),
        lambda a: -a,
        lambda a: a * np.float32(1e30),
        lambda a: np.concatenate((a, a)),
        lambda a: a.transpose(0, 2, 1),
        lambda a: a[:, :7],
        lambda a: np.concatenate((a, a), -1),
        lambda a: a.astype(np.float16),
        lambda a: a[:0],
        lambda a: np.float32(1).reshape(()),
        lambda a: np.tile(a, (1, 300, 1)),
    )
    return np.ascontiguousarray(pick(rng, ways)(array))


class TorchScript(Kind):
    """Programs with corrupted metadata, outputs or bytes."""

    name, weight = "torchscript", 0.7

    def ground(self, folder: Path) -> None:
        for number, change in enumerate(SCRIPTS):
            module = torch.jit.trace(_Answer(change), torch.zeros(1, 3, 64, 64), check_trace=False)
            torch.jit.save(module, str(folder / f"{number}.torchscript"))

    def make(self, rng: np.random.Generator, ground: Path, folder: Path) -> None:
        file = pick(rng, sorted(ground.glob("*.torchscript")))
        module = torch.jit.load(str(file))
        out = io.BytesIO()
        torch.jit.save(
            module, out, _extra_files={
                f"{METADATA_KEY}.json": spoiled_metadata(rng).replace('"device": ""', '"device": "cpu"')}
        )
        data = out.getvalue()
        chance = rng.random()
        if chance < 0.25:
            data = spoil_bytes(rng, data)
        elif chance < 0.3:
            data = packed({"x/data.pkl": b"\x80\x02}.", "x/constants.pkl": b"\x80\x02)."})
        (folder / "model.torchscript").write_bytes(data)
        write_facts(folder, trust=True)

    def attempt(self, folder: Path) -> None:
        words = inspect.signature(load_runtime).parameters
        trust = {"trust": read_facts(folder)["trust"]} if "trust" in words else {}
        use(load_runtime("model.torchscript", "cpu", **trust))


class _Answer(torch.nn.Module):
    """Gives boxes and scores of some form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: torch.Tensor):
        boxes = images.new_ones(1, 84, 4) * 10 + images.mean()
        scores = images.new_ones(1, 84, 3) * 0.5
        if self.form == "one":
            return boxes
        if self.form == "short":
            return boxes[:, :5], scores
        if self.form == "flat":
            return boxes.flatten(), scores
        if self.form == "three":
            return boxes, scores, scores
        return boxes, scores


SCRIPTS = ("good", "one", "short", "flat", "three", *["good"] * 5)
