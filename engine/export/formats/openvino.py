"""A program as a folder of OpenVINO, converted from its ONNX graph: .xml, .bin and metadata.yaml."""

import contextlib
import io
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from engine.export.config import ExportConfig
from engine.export.formats.onnx import describe, graph_of, known_to_others
from engine.export.pictures import Pictures
from engine.export.program import Program
from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, first_line
from engine.inference.runtimes.openvino import METADATA_FILE
from utils.errors import UserError

Model = Any  # openvino.Model; the package is optional
COMPUTES = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}  # what 8 bits make faster


def convert(program: Program, metadata: ExportMetadata, config: ExportConfig) -> Model:
    """The network, read from its ONNX graph."""
    openvino = import_module("openvino")
    graph = graph_of(program, metadata, config).SerializeToString()
    try:
        return openvino.Core().read_model(io.BytesIO(graph))
    except Exception as error:  # OpenVINO raises RuntimeError and its own classes
        raise UserError(f"openvino: cannot read this model's ONNX graph: {first_line(error)}", "unsupported-model"
                        ) from error


def save(network: Model, folder: Path, metadata: ExportMetadata, name: str) -> None:
    """Write the files of a network."""
    import_module("openvino").save_model(network, str(folder / f"{name}.xml"), compress_to_fp16=metadata.half)
    content = {"description": describe(metadata), **known_to_others(metadata), METADATA_KEY: metadata.to_json()}
    (folder / METADATA_FILE).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def quantise(network: Model, pictures: Pictures, runtime: Runtime, size: tuple[int, int]) -> Model:
    """The network with convolutions in 8 bits, whose ranges are measured on pictures, placed as `runtime` takes them.

    What follows the last convolutions stays in floats: there boxes become pixels, of which 8 bits tell 256 apart.
    """
    nncf = import_module("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # it tells of each operation that stays in floats
    wanted = runtime.choose_size(size)
    batch = runtime.fixed_batch or 1
    images = [(runtime.prepare(image, wanted)[0].float() / 255).expand(batch, -1, -1, -1).numpy()
              for _, image in pictures]
    if not images:
        raise UserError("--data: none of its images can be read, so there is nothing to calibrate on; name others",
                        "no-images")
    kept = sorted(_after_last(network.get_ops()))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        return nncf.quantize(network, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED,
                             subset_size=len(images), ignored_scope=nncf.IgnoredScope(names=kept, validate=False))


def _after_last(operations: list[Any]) -> set[str]:
    """Names of the operations after which nothing is convolved or multiplied as matrices any more."""
    leads: dict[str, bool] = {}
    for node in reversed(operations):  # sorted so that inputs come first
        targets = [given.get_node() for output in node.outputs() for given in output.get_target_inputs()]
        leads[node.get_friendly_name()] = any(
            target.get_type_name() in COMPUTES or leads.get(target.get_friendly_name(), False) for target in targets)
    return {node.get_friendly_name() for node in operations if not leads[node.get_friendly_name()]
            and node.get_type_name() not in {*COMPUTES, "Constant", "Parameter", "Result"}}
