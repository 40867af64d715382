"""The formats of `export.py`: where each is written, what it needs, and which options it has."""

from dataclasses import dataclass
from pathlib import Path

from engine.inference.runtimes.openvino import FOLDER_SUFFIX


@dataclass(frozen=True)
class Format:
    """suffix: of its file or folder; packages: that it needs beside torch; options: flags that have a meaning for it,
    by destination; device: the type that it is compared on, "" for that of the model, to which it is then bound."""

    suffix: str
    packages: tuple[str, ...]
    options: frozenset[str]
    device: str = ""

    def path(self, stem: Path, int8: bool = False) -> Path:
        """The file or folder of a stem; folders of 8 bits have a name of their own, as YOLOv5 and Ultralytics do it."""
        return stem.with_name(f"{stem.name}{'_int8' * int8}{self.suffix}")


THROUGH_ONNX = {"half", "dynamic", "opset", "simplify", "layout"}
FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxruntime"), frozenset({*THROUGH_ONNX, "nms"}), "cpu"),
    "openvino": Format(FOLDER_SUFFIX, ("onnx", "openvino"), frozenset({*THROUGH_ONNX, "nms", "int8"}), "cpu"),
    "engine": Format(".engine", ("onnx", "tensorrt"), frozenset(THROUGH_ONNX), "cuda"),
    "torchscript": Format(".torchscript", (), frozenset({"half", "dynamic", "layout"})),
    "pt2": Format(".pt2", (), frozenset({"half", "dynamic", "layout"})),
}
# Formats of other exporters: which of our files their own converters read.
CONVERTERS = {
    "coreml": "coremltools reads torchscript and pt2", "tflite": "onnx2tf reads onnx",
    "edgetpu": "onnx2tf reads onnx, and the Edge TPU compiler what it writes", "litert": "litert-torch reads pt2",
    "saved_model": "onnx2tf reads onnx", "pb": "onnx2tf reads onnx", "tfjs": "onnxruntime-web runs onnx in a browser",
    "paddle": "x2paddle reads onnx", "ncnn": "pnnx reads torchscript and onnx", "mnn": "MNNConvert reads onnx",
    "rknn": "rknn-toolkit2 reads onnx", "imx": "Sony's converter reads onnx",
    "executorch": "executorch.exir.to_edge_transform_and_lower takes a pt2",
}
OTHER_NAMES = {"tensorrt": "engine", "trt": "engine", "torch_export": "pt2", "exported_program": "pt2",
               "jit": "torchscript", "mlmodel": "coreml", "mlpackage": "coreml"}


def format_of(path: Path | str) -> str | None:
    """The name of the format that a path is of, by its suffix; None for another one."""
    return next((name for name, kind in FORMATS.items() if str(path).endswith(kind.suffix)), None)
