"""Opening a model file with the runtime that its suffix names."""

from pathlib import Path

import torch

from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.exported_program import ExportedProgramRuntime
from engine.inference.runtimes.onnx import OnnxRuntime
from engine.inference.runtimes.openvino import FOLDER_SUFFIX, OpenVinoRuntime
from engine.inference.runtimes.tensorrt import TensorRtRuntime
from engine.inference.runtimes.torchscript import TorchScriptRuntime
from models import load_model
from models.weights.addresses import require_file
from utils.device import select_device
from utils.errors import UserError

KINDS = {".pt": "a checkpoint", ".pth": "a checkpoint", ".onnx": "ONNX", FOLDER_SUFFIX: "a folder of OpenVINO",
         ".torchscript": "TorchScript", ".pt2": "torch.export", ".engine": "TensorRT"}


def load_runtime(path: Path | str, device: str | torch.device = "", half: bool = False,
                 trust: bool = False) -> Runtime:
    """Open a checkpoint or an exported file, by its suffix (`KINDS`); of OpenVINO the folder, or the .xml in it.

    device: '' is the first GPU that the file and the installed libraries can use, or else the CPU; 'cpu', '0', ...
    half: compute in 16 bits; an exported file must have been exported with it. trust: load a .torchscript, .pt2 or
    .engine, which are programs, that export.py did not write here.
    Raises `UserError` for a missing, truncated or foreign file, or a device that the file cannot use.
    """
    path = Path(path)
    if path.suffix == ".xml":
        path = path.parent
    kind = FOLDER_SUFFIX if path.is_dir() or path.name.endswith(FOLDER_SUFFIX) else path.suffix
    if kind not in KINDS:
        known = ", ".join(f"{suffix} ({what})" for suffix, what in KINDS.items())
        raise UserError(f"{path}: unknown kind of weights {path.suffix!r}; known: {known}", "unknown-format")
    if kind != FOLDER_SUFFIX:
        require_file(path)
    elif not path.is_dir():
        raise UserError(f"{path}: no such folder; give the one that export.py wrote", "missing-file")
    if kind in (".pt", ".pth"):
        chosen = select_device(str(device))
        return TorchRuntime(path, load_model(path), chosen, half)
    if kind in (".onnx", FOLDER_SUFFIX):
        runtime = (OnnxRuntime if kind == ".onnx" else OpenVinoRuntime)(path, device)
    else:
        programs = {".torchscript": TorchScriptRuntime, ".pt2": ExportedProgramRuntime, ".engine": TensorRtRuntime}
        runtime = programs[kind](path, device, trust)
    if half and not runtime.half:
        raise UserError(f"--half: {path} was exported in {runtime.precision}; export it again with --half, or drop the "
                        "flag here", "wrong-precision")
    return runtime
