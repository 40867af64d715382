"""A detector in an ONNX file, ours or of another program, run by onnxruntime."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.inference.metadata import METADATA_KEY, ExportMetadata
from engine.inference.onnx_layouts import Layout, Slot, as_input, find_layout
from engine.inference.runtimes.base import Runtime, as_unit, first_line
from utils.device import select_device
from utils.errors import UserError


class OnnxRuntime(Runtime):
    """An ONNX file run by onnxruntime, on the CPU or through its CUDA provider."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs onnxruntime, which is not installed; pip install onnxruntime "
                            "(or onnxruntime-gpu)", "missing-package") from None
        gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        chosen = torch.device("cpu") if device == "" and not gpu else select_device(str(device))
        if chosen.type == "cuda" and not gpu:
            raise UserError(f"--device {chosen.index}: the installed onnxruntime is built without CUDA; "
                            "pip install onnxruntime-gpu, or use --device cpu", "missing-package")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # silent: errors are raised too, and users cannot act on its warnings
        providers = [("CUDAExecutionProvider", {"device_id": chosen.index})] if chosen.type == "cuda" else []
        providers.append("CPUExecutionProvider")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise UserError(f"{path}: truncated or not an ONNX file ({first_line(error)}); export it again",
                            "corrupt-file") from None
        try:
            entries = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            raise UserError(f"{path}: its metadata is damaged: not UTF-8; export it again",
                            "corrupt-metadata") from None
        self.path = path
        self.foreign = None if METADATA_KEY in entries else self._foreign_layout(entries)
        metadata = self._read_metadata(entries)
        super().__init__(path, metadata, chosen)
        self._outputs = list(metadata.outputs)

    def _foreign_layout(self, entries: dict[str, str]) -> Layout:
        """The layout of a file of another program."""
        slots = [[Slot(s.name, tuple(n if isinstance(n, int) and n > 0 else None for n in s.shape), s.type)
                  for s in side] for side in (self.session.get_inputs(), self.session.get_outputs())]
        layout = find_layout(*slots, entries, self.path, lambda output, inputs: self._run([output], inputs)[0])
        kind = "YOLOv5 or YOLOv7" if layout.anchors else "YOLOv8"
        count = len(layout.names)
        print(f"{self.path}: not of this project; read as {kind} writes it, {count} class{'es' * (count > 1)}"
              + ("" if entries.get("names") else ", whose names it does not hold"), file=sys.stderr)
        return layout

    def _read_metadata(self, entries: dict[str, str]) -> ExportMetadata:
        layout = self.foreign
        if layout is None:
            return ExportMetadata.from_json(entries[METADATA_KEY], self.path)
        trained = {"imgsz": list(layout.imgsz[:2])} if layout.imgsz else {}
        return ExportMetadata(layout.names, layout.strides, layout.size, layout.batch, layout.half, trained=trained)

    def _run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # as above
            shapes = [list(value.shape) for value in inputs.values()]
            raise UserError(f"{self.path}: failed on {shapes[0]}: {first_line(error)}", "failed-inference") from None

    def _predict(self, images: Tensor, content: Tensor | None = None) -> list[Tensor]:
        unit, layout = as_unit(images), self.foreign
        if layout is not None:
            answer = self._run([layout.output], {layout.input: as_input(unit, layout.half)})[0]
            return [*layout.decode(torch.from_numpy(answer).to(self.device), self.path)]
        outputs = self._run(self._outputs, {"images": unit.cpu().numpy()})
        return [torch.from_numpy(out).to(self.device) for out in outputs]
