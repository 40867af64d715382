"""A detector in an engine of TensorRT (.engine), which is compiled for one kind of GPU.

A file is the length of its metadata (4 bytes, little-endian), the metadata as JSON, and the engine.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.inference.metadata import MAX_METADATA, METADATA_KEY, ExportMetadata
from engine.inference.runtimes.base import Runtime, as_unit, first_line
from utils.device import select_device
from utils.errors import UserError
from utils.trusted_exports import check_own


class TensorRtRuntime(Runtime):
    """An engine that TensorRT runs on a GPU. It is machine code, so it is run only if export.py wrote it here."""

    def __init__(self, path: Path, device: str | torch.device, trust: bool = False) -> None:
        self._tensorrt = import_tensorrt(path.name)
        chosen = select_device(str(device))
        if chosen.type != "cuda":
            raise UserError(f"{path}: an engine of TensorRT runs on a GPU; give --device 0, or export onnx or openvino "
                            "for a CPU", "needs-gpu")
        check_own(path, "an engine of TensorRT, machine code", trust)
        text, engine = split_engine(path.read_bytes(), path)
        metadata = ExportMetadata.from_json(text, path)
        logger = self._tensorrt.Logger(self._tensorrt.Logger.ERROR)
        self._engine = self._tensorrt.Runtime(logger).deserialize_cuda_engine(engine)
        if self._engine is None:
            raise UserError(f"{path}: TensorRT {self._tensorrt.__version__} cannot read it: truncated, or built by "
                            "another version or for another GPU; export it again on this machine", "corrupt-file")
        self._context = self._engine.create_execution_context()
        super().__init__(path, metadata, chosen)
        self._outputs = list(metadata.outputs)

    def _predict(self, images: Tensor, content: Tensor | None = None) -> list[Tensor]:
        given = as_unit(images).contiguous()
        context, engine = self._context, self._engine
        if not context.set_input_shape("images", tuple(given.shape)):
            raise UserError(f"{self.path}: takes no images of the shape {list(given.shape)}; it was built for the "
                            "batch and sizes of its export", "failed-inference")
        kinds = [_dtype(engine.get_tensor_dtype(name), self._tensorrt) for name in self._outputs]
        outputs = [given.new_empty(tuple(context.get_tensor_shape(name)), dtype=kind)
                   for name, kind in zip(self._outputs, kinds, strict=True)]
        for name, tensor in zip(("images", *self._outputs), (given, *outputs), strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not context.execute_async_v3(stream.cuda_stream):
            raise UserError(f"{self.path}: TensorRT failed on {list(given.shape)}", "failed-inference")
        stream.synchronize()
        return outputs


def import_tensorrt(name: str) -> Any:
    """The package, imported late. Raises `UserError` where it is not installed."""
    try:
        return import_module("tensorrt")
    except ImportError as error:
        raise UserError(f"{name}: needs tensorrt, which is not installed or does not load ({first_line(error)}); pip "
                        "install tensorrt on a machine with an NVIDIA GPU, or export onnx", "missing-package") from None


def join_engine(metadata: ExportMetadata, engine: bytes) -> bytes:
    """The content of a file."""
    text = json.dumps({METADATA_KEY: metadata.to_json()}).encode()
    return len(text).to_bytes(4, "little") + text + engine


def split_engine(content: bytes, path: Path) -> tuple[str, bytes]:
    """Metadata and engine of a file's content. Raises `UserError` for files of other programs."""
    length = int.from_bytes(content[:4], "little")
    if not 0 < length < min(len(content) - 4, MAX_METADATA):
        raise UserError(f"{path}: truncated, or not written by this project's export.py; export it again",
                        "corrupt-file")
    try:
        entries = json.loads(content[4:4 + length])
    except (ValueError, RecursionError):
        entries = None
    text = entries.get(METADATA_KEY, "") if isinstance(entries, dict) else ""
    return text if isinstance(text, str) else "", content[4 + length:]


def _dtype(kind: Any, tensorrt: Any) -> torch.dtype:
    return {tensorrt.DataType.HALF: torch.float16, tensorrt.DataType.INT64: torch.int64,
            tensorrt.DataType.INT32: torch.int32}.get(kind, torch.float32)
