"""A program as an ONNX graph, from which OpenVINO and TensorRT are made too."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.export.config import OPSET, ExportConfig
from engine.export.formats.onnx_nodes import add_selection, add_size_check
from engine.export.program import Program
from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import first_line
from utils.errors import UserError
from utils.frame import SIDE

if TYPE_CHECKING:
    from onnx import ModelProto

TRACED = 20  # the newest operator set of torch's tracing exporter; newer ones are converted from it
IR_VERSION = 10  # the newest that onnxruntime 1.18 reads
READER = {"nms": "NMS is left to the reader", "topk": "the reader takes the best pairs of box and class, without NMS"}
DETECTIONS = "x1, y1, x2, y2 in pixels of images, score, class; best first, padded with zeros"


def write(program: Program, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    """Write an .onnx file. Raises `UserError` for an operator set in which the model cannot be expressed."""
    path.write_bytes(graph_of(program, metadata, config).SerializeToString())


def graph_of(program: Program, metadata: ExportMetadata, config: ExportConfig) -> "ModelProto":
    """The graph with everything that the flags ask for, and its metadata."""
    model = _trace(program, metadata, config)
    if config.simplify:
        import onnxslim

        model = onnxslim.slim(model)
    _name_shapes(model, metadata)
    if metadata.selection:
        add_selection(model, metadata.selection, suppress=metadata.select == "nms", peer=config.layout == "peer")
    if config.dynamic:
        add_size_check(model, metadata.frame.multiple)
    model.doc_string = describe(metadata)
    for key, value in entries_of(metadata).items():
        model.metadata_props.add(key=key, value=value)
    return model


def example(config: ExportConfig, device: torch.device) -> Tensor:
    """Images of the batch and size of the flags."""
    return torch.rand(config.batch_size, 3, *config.size, device=device)


def describe(metadata: ExportMetadata) -> str:
    """Inputs and outputs in a sentence or two."""
    stride, fixed = metadata.frame.multiple, metadata.size or metadata.frame.size
    sides = "{} and {}".format(*fixed) if fixed else f"multiples of {stride}"
    outputs = {("boxes", "scores"): "boxes: x1, y1, x2, y2 in pixels of images; scores: one per class, "
                                    + READER[metadata.select],
               ("detections", "count"): f"detections: {DETECTIONS}; count: how many there are of each image"}
    peer = f"output0: {DETECTIONS}" if metadata.selection else (
        "output0: rows of centre x, centre y, width, height in pixels of images, then a row of scores per class; "
        + READER[metadata.select])
    return f"images: RGB in [0, 1], height and width {sides}; {outputs.get(metadata.outputs, peer)}"


def entries_of(metadata: ExportMetadata) -> dict[str, str]:
    """What a file says about itself, as text: our metadata, and what Ultralytics' readers look for."""
    return {METADATA_KEY: metadata.to_json(), **{key: str(value) for key, value in known_to_others(metadata).items()}}


def known_to_others(metadata: ExportMetadata) -> dict[str, Any]:
    """The entries by which Ultralytics' readers choose size and batch, name classes, and see whether NMS is inside."""
    sides = metadata.size or metadata.frame.size or metadata.trained.get("imgsz", [SIDE])[-1:]
    selects = metadata.selection is not None
    return {"stride": metadata.frame.multiple, "names": dict(enumerate(metadata.names)), "task": "detect",
            "batch": metadata.batch or 1, "imgsz": [sides[0], sides[-1]], "end2end": selects,
            "args": {"nms": selects, "dynamic": metadata.size is None and metadata.frame.size is None}}


def _trace(program: Program, metadata: ExportMetadata, config: ExportConfig) -> "ModelProto":
    import onnx
    import onnx.version_converter

    opset, device = config.opset or OPSET, next(program.parameters()).device
    names = ["output0"] if program.peer else ["boxes", "scores"]
    candidates = {2: "candidates"} if program.peer else {1: "candidates"}
    if config.dynamic:
        axes = {"images": {0: "batch", 2: "height", 3: "width"}, **{n: {0: "batch", **candidates} for n in names}}
    else:  # a set has as many answers as it finds
        axes = {} if metadata.select == "nms" else dict.fromkeys(names, candidates)
    written = io.BytesIO()
    try:
        # dynamo=False: the exporter that needs no package beside onnx, and that torch 2.6 and 2.15 both have.
        torch.onnx.export(program, (example(config, device),), written, input_names=["images"], output_names=names,
                          opset_version=min(opset, TRACED), dynamic_axes=axes, dynamo=False)
        model = onnx.load_model_from_string(written.getvalue())
        if opset > TRACED:
            model = onnx.version_converter.convert_version(model, opset)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--opset {opset}: this model cannot be exported with it: {first_line(error)}",
                        "unsupported-opset") from error
    model.ir_version = min(model.ir_version, IR_VERSION)
    return model


def _name_shapes(model: "ModelProto", metadata: ExportMetadata) -> None:
    """State the sizes of the outputs that tracing leaves open."""
    last = {"boxes": (2, 4), "scores": (2, len(metadata.names)), "output0": (1, 4 + len(metadata.names))}
    for output in model.graph.output:
        axis, size = last[output.name]
        output.type.tensor_type.shape.dim[axis].dim_value = size
