"""Opening a model file with the runtime that its suffix names."""

from pathlib import Path

import torch

from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.onnx import OnnxRuntime
from engine.inference.runtimes.torchscript import TorchScriptRuntime
from models import load_model
from models.weights.addresses import require_file
from utils.device import select_device
from utils.errors import UserError


def load_runtime(path: Path | str, device: str | torch.device = "", half: bool = False,
                 trust: bool = False) -> Runtime:
    """Open a checkpoint or an exported file, by its suffix (.pt, .onnx, .torchscript).

    device: '' is the first GPU that the file and the installed libraries can use, or else the CPU; 'cpu', '0', ...
    half: compute in 16 bits; an exported file must have been exported with it. trust: load a .torchscript, which is a
    program, that export.py did not write here.
    Raises `UserError` for a missing, truncated or foreign file, or a device that the file cannot use.
    """
    path = Path(path)
    kinds = {".pt": "a checkpoint", ".pth": "a checkpoint", ".onnx": "ONNX", ".torchscript": "TorchScript"}
    if path.suffix not in kinds:
        known = ", ".join(f"{suffix} ({what})" for suffix, what in kinds.items())
        raise UserError(f"{path}: unknown kind of weights {path.suffix!r}; known: {known}", "unknown-format")
    require_file(path)
    if path.suffix in (".pt", ".pth"):
        chosen = select_device(str(device))
        return TorchRuntime(path, load_model(path), chosen, half)
    runtime = OnnxRuntime(path, device) if path.suffix == ".onnx" else TorchScriptRuntime(path, device, trust)
    if half and not runtime.half:
        raise UserError(f"--half: {path} was exported in fp32; export it again with --half, or drop the flag here",
                        "wrong-precision")
    return runtime
