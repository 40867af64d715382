"""A program as TorchScript, by tracing."""

from pathlib import Path

import torch

from engine.export.config import ExportConfig
from engine.export.formats.onnx import example
from engine.export.program import Program
from engine.inference.metadata import METADATA_KEY, ExportMetadata


def write(program: Program, path: Path, metadata: ExportMetadata, config: ExportConfig) -> None:
    """Write a .torchscript file, which is bound to the type of device that it is traced on."""
    device = next(program.parameters()).device
    with torch.inference_mode():
        script = torch.jit.trace(program, example(config, device), check_trace=False)
    # Through memory, since torch's own writer aborts the process on a full disk.
    path.write_bytes(script.save_to_buffer(_extra_files={f"{METADATA_KEY}.json": metadata.to_json()}))
