"""The files of one model in every format that can be written and run here, each made by export.py."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.record import PROJECT, last_line


@dataclass(frozen=True)
class Form:
    """A format with its precision. words: of export.py; suffix: of the file; needs: packages; data: is calibrated."""

    name: str
    words: tuple[str, ...]
    suffix: str
    needs: tuple[str, ...] = ()
    data: bool = False


FORMS = (Form("PyTorch fp32", (), ".pt"),
         Form("TorchScript fp32", ("torchscript",), ".torchscript"),
         Form("ONNX fp32", ("onnx", "--dynamic"), ".onnx", ("onnxruntime",)),
         Form("OpenVINO fp32", ("openvino", "--dynamic"), "_openvino_model", ("openvino",)),
         Form("OpenVINO fp16", ("openvino", "--dynamic", "--half"), "_openvino_model", ("openvino",)),
         Form("OpenVINO int8", ("openvino", "--dynamic", "--int8"), "_openvino_model", ("openvino", "nncf"), data=True),
         Form("TensorRT fp32", ("engine",), ".engine", ("tensorrt",)),
         Form("TensorRT fp16", ("engine", "--half"), ".engine", ("tensorrt",)))


def why_not(form: Form, data: str, device: str) -> str:
    """Why a format is left out, '' where it is not."""
    missing = [package for package in form.needs if find_spec(package) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if form.data and not data:
        return "needs --data, to calibrate on"
    return "runs on GPUs" if form.suffix == ".engine" and device == "cpu" else ""


def make(form: Form, weights: Path, imgsz: int, device: str, data: str, folder: Path) -> tuple[Path | None, str]:
    """The file of a format, or why there is none."""
    if form.suffix == ".pt":
        return weights, ""
    stem = folder / form.name.replace(" ", "-").lower()
    command = [sys.executable, "export.py", "--weights", str(weights), "--include", *form.words, "--imgsz", str(imgsz),
               "--device", device, "--output", str(stem), *(["--data", data] if data else [])]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, errors="replace")
    found = [path for path in folder.glob(f"{stem.name}*") if path.name.endswith(form.suffix)]
    if run.returncode or not found:
        return None, last_line(run.stderr or run.stdout).removeprefix("error: ")
    return found[0], ""


def average_precision(path: Path, imgsz: int, device: str, data: str, folder: Path) -> float:
    """AP of a file on a data set, by val.py."""
    name = path.name.replace(".", "-")
    command = [sys.executable, "val.py", "--weights", str(path), "--data", data, "--imgsz", str(imgsz), "--device",
               device, "--project", str(folder / "val"), "--name", name, "--noplots", "--trust"]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, errors="replace")
    file = folder / "val" / name / "metrics.json"
    if run.returncode or not file.is_file():
        raise RuntimeError(f"{' '.join(command)}: {last_line(run.stderr)}")
    return float(json.loads(file.read_text(encoding="utf-8"))["protocols"][0]["values"]["AP"])
