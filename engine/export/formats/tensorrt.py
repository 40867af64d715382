"""A program as an engine of TensorRT, built from its ONNX graph for the GPU of this machine."""

from pathlib import Path
from typing import Any

from engine.export.config import ExportConfig
from engine.export.formats.onnx import graph_of
from engine.export.program import Program
from engine.inference.metadata import ExportMetadata
from engine.inference.runtimes.tensorrt import import_tensorrt, join_engine
from utils.errors import UserError


def write(program: Program, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    """Write an .engine file. With free sizes it takes batches up to that of the flags and sides up to theirs.

    Raises `UserError` for a graph that TensorRT does not read, or cannot build.
    """
    tensorrt = import_tensorrt(path.name)
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(_flags(tensorrt))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph_of(program, metadata, config).SerializeToString()):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise UserError(f"engine: TensorRT {tensorrt.__version__} cannot read this model's ONNX graph: "
                        f"{str(reason)[:200]}; use --include onnx", "unsupported-model")
    settings = builder.create_builder_config()
    if config.half and hasattr(tensorrt.BuilderFlag, "FP16"):  # newer ones take the types from the graph alone
        settings.set_flag(tensorrt.BuilderFlag.FP16)
    if config.dynamic:
        step, (height, width) = metadata.frame.multiple, config.size
        profile = builder.create_optimization_profile()
        profile.set_shape("images", (1, 3, step, step), (config.batch_size, 3, height, width),
                          (config.batch_size, 3, max(height, width), max(height, width)))
        settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise UserError(f"engine: TensorRT {tensorrt.__version__} cannot build this model; free memory of the GPU, or "
                        "use --include onnx", "unsupported-model")
    path.write_bytes(join_engine(metadata, bytes(engine)))


def _flags(tensorrt: Any) -> int:
    """An explicit batch, which newer versions have always."""
    kinds = tensorrt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
