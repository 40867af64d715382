"""Running a trained detector from a checkpoint (.pt), .onnx or .torchscript file through one interface.

Legend: B images in a batch, H, W pixels of the input frame, N candidate boxes of one image, C classes.
An exported file takes `images` (B, 3, H, W) float32 RGB in [0, 1] and gives `boxes` (B, N, 4) float32 xyxy input pixels
and `scores` (B, N, C) float32, and has an `ExportMetadata` inside.
"""

import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import place
from data.images.placement import Placement
from engine.inference.metadata import METADATA_KEY, ExportMetadata, is_count, is_list_of
from engine.inference.onnx_layouts import Layout, Slot, as_input, find_layout
from models import load_model
from utils.device import select_device
from utils.errors import UserError, shown
from utils.select import SelectConfig, Selector, find_selector, import_nms
from utils.structures import Detections, Letterbox
from utils.trusted_exports import is_own


class Runtime:
    """A detector that is ready to run; subclasses implement `_predict` for one batch.

    names: class names; strides: pixels per cell of each level; frame: how it wants images placed, and fixed_size: the
    only (height, width) it takes, or None; fixed_batch: the only batch size of the file, or None (`predict` takes any:
    it pads or splits); finds_sets: whether no box suppresses another; trained, thresholds: see `ExportMetadata`;
    device: the device of `boxes` and `scores`, on which images are best put too.
    """

    def __init__(self, path: Path, metadata: ExportMetadata, device: torch.device,
                 selection: Selector | None = None) -> None:
        self.path, self.device = path, device
        self.names, self.strides = list(metadata.names), list(metadata.strides)
        self.frame, self.fixed_batch, self.half = metadata.file_frame, metadata.batch, metadata.half
        self._model_frame, self._sizes = metadata.frame, {}
        self.finds_sets = metadata.select == "topk"
        self.thresholds, self._selector = metadata.thresholds, find_selector(selection or metadata.select)
        import_nms()
        trained = metadata.trained if isinstance(metadata.trained, dict) else {}
        self.trained = trained if is_list_of(trained.get("imgsz", [640]), is_count, 2) else {}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        return self.frame.size

    def choose_size(self, wanted: Sequence[int] | None = None) -> tuple[int, int]:
        """(height, width), or (shorter, longer) side, to run at (`Frame.resolve`): the file's fixed size, or `wanted`,
        or the size of the training, or that of the frame.

        Raises `UserError` if `wanted` differs from a fixed size. Asked again it says nothing again.
        """
        key = wanted and tuple(wanted)
        if key not in self._sizes:
            self._sizes[key] = self._size_for(wanted)
        return self._sizes[key]

    def _size_for(self, wanted: Sequence[int] | None) -> tuple[int, int]:
        if self.fixed_size is not None and (wanted is None or tuple(wanted) == self.fixed_size):
            return self.fixed_size
        frame = self._model_frame
        size = frame.round(wanted or self.trained.get("imgsz", [])[-1:] or None, str(self.path))
        if self.fixed_size not in (None, frame.up(size)):
            bound = " ".join(map(str, self.fixed_size))
            raise UserError(f"--imgsz: {self.path} was exported for {bound} only; give that, or export with --dynamic",
                            "fixed-size")
        return self.fixed_size or size

    def prepare(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Letterbox]:
        """BGR (H, W, 3) uint8 -> RGB (1, 3, h, w) uint8 and its letterbox, with as little padding as the file allows.

        size: see `choose_size`.
        """
        inner, transform = Placement(self.frame, size).alone(image.shape[:2])
        placed = place(image, inner, transform, fill=self.frame.fill, antialias=self.frame.shrink == "area")
        return torch.from_numpy(cv2.cvtColor(placed, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None], transform

    def content(self, letterboxes: Sequence[Letterbox]) -> Tensor | None:
        """(B, 2) height and width of images at the top left of their frames; None where they lie elsewhere."""
        if self.frame.pad != "corner":
            return None
        return torch.tensor([letterbox.content for letterbox in letterboxes]).view(-1, 2)

    def predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), uint8 or float in [0, 1] -> boxes (B, N, 4) xyxy input pixels, scores (B, N, C).

        Both are float32. content: see `content`; an exported file reads whole frames, padding too. Raises `UserError`
        if the file does not take images of this size.
        """
        height, width = images.shape[-2:]
        if self.fixed_size and (height, width) != self.fixed_size:
            bound = "x".join(map(str, self.fixed_size))
            again = ", or export it again with --dynamic" if self._model_frame.size is None else ""
            raise UserError(f"{self.path}: takes {bound} pixels, got {height}x{width}; give that --imgsz{again}",
                            "fixed-size")
        stride = self.frame.multiple
        if height % stride or width % stride:
            raise UserError(f"{self.path}: takes heights and widths in multiples of {stride}, got {height}x{width}",
                            "bad-size")
        step = self.fixed_batch or len(images)
        parts = []
        with torch.inference_mode():
            for k, part in enumerate(images.to(self.device, non_blocking=True).split(step)):
                short = step - len(part)
                padded = torch.cat((part, part.new_zeros(short, *part.shape[1:]))) if short else part
                shown = None if content is None or short else content[k * step:(k + 1) * step].to(self.device)
                parts.append([out[:len(part)] for out in self._checked(self._predict(padded, shown), len(padded))])
        boxes, scores = zip(*parts, strict=True)
        return torch.cat(boxes), torch.cat(scores)

    def _checked(self, answer: Any, batch: int) -> tuple[Tensor, Tensor]:
        """The boxes and scores that a file returned. Raises `UserError` if their shapes are wrong."""
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        count = shapes[0][1] if len(shapes) == 2 and isinstance(shapes[0], tuple) and len(shapes[0]) == 3 else 0
        if shapes != [(batch, count, 4), (batch, count, len(self.names))]:
            raise UserError(f"{self.path}: answers {shown(shapes)} to {batch} images, not boxes (B, N, 4) and "
                            f"scores (B, N, {len(self.names)}); export it again", "bad-output")
        return parts[0].float(), parts[1].float()

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def check_suppression(self, given: Mapping[str, bool]) -> None:
        """Raises `UserError` for flags about suppression where none is done; given: flag -> whether it was given."""
        flags = [flag for flag, is_given in given.items() if is_given]
        if flags and self.finds_sets:
            raise UserError(f"{' '.join(flags)}: {self.path} answers with a set, in which no box suppresses another; "
                            f"drop {'them' if len(flags) > 1 else 'the flag'}", "flag-without-effect")

    def select(self, boxes: Tensor, scores: Tensor, config: SelectConfig | None = None) -> list[Detections]:
        """The detections of each image from the output of `predict`; config: by default the model's `thresholds`."""
        return self._selector(boxes, scores, config or self.thresholds)


class TorchRuntime(Runtime):
    """A PyTorch model, fused, in channels-last order, which is faster on CPUs and GPUs.

    half: fp16 on a GPU and bf16 on a CPU, where fp16 is about a hundred times slower.
    """

    def __init__(self, path: Path, model: torch.nn.Module, device: torch.device, half: bool) -> None:
        selection = model.head.selection if isinstance(model.head.selection, str) else "nms"
        metadata = ExportMetadata(tuple(model.names), tuple(model.strides), None, None, half,
                                  trained=model.config.get("trained", {}), select=selection,
                                  thresholds=model.thresholds, frame=model.frame, pixels=model.pixels)
        super().__init__(path, metadata, device, model.select)
        self.dtype = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self.model = model.eval().fuse().to(device, self.dtype, memory_format=torch.channels_last)

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        images = images if images.dtype == torch.uint8 else images.to(self.dtype)
        return self.model.decode(self.model(images.contiguous(memory_format=torch.channels_last), content))


class TorchScriptRuntime(Runtime):
    """A traced file; it runs only on the type of device it was traced on, which tracing stores in the file."""

    def __init__(self, path: Path, device: str | torch.device, trust: bool = False) -> None:
        try:
            is_archive = zipfile.is_zipfile(path)
        except zipfile.BadZipFile:
            is_archive = False
        if not is_archive:
            raise UserError(f"{path}: truncated or not TorchScript; export it again", "corrupt-file")
        if not trust and not is_own(path):
            raise UserError(f"{path}: is a TorchScript program, which runs when it is loaded, and export.py did not "
                            "write it for this user on this machine; --trust runs it all the same, export.py makes one "
                            "from the checkpoint, and .onnx holds no program", "untrusted-file")
        extra = {f"{METADATA_KEY}.json": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "deprecated"; its successor needs a compiler
                self.module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: truncated or not TorchScript ({first_line(error)}); export it again",
                            "corrupt-file") from None
        text = extra[f"{METADATA_KEY}.json"]
        metadata = ExportMetadata.from_json(text.decode(errors="replace") if isinstance(text, bytes) else text, path)
        chosen = select_device(metadata.device if device == "" else str(device))
        if (chosen.type, chosen.index or 0) != (metadata.device, 0):
            own, other = ("cpu", "0") if metadata.device == "cpu" else ("0", "cpu")
            raise UserError(f"{path}: was traced for --device {own} and runs only there; give that here, or export it "
                            f"again with --device {other}", "wrong-device")
        super().__init__(path, metadata, chosen)
        self.module.to(chosen).eval()

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        try:
            return self.module(as_unit(images))
        except RuntimeError as error:
            raise UserError(f"{self.path}: failed on {list(images.shape)}: {str(error).strip()[-150:]!r}",
                            "failed-inference") from None


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
        self.layout = None if METADATA_KEY in entries else self._foreign_layout(entries)
        super().__init__(path, self._read_metadata(entries), chosen)

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
        layout = self.layout
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

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        unit, layout = as_unit(images), self.layout
        if layout is not None:
            answer = self._run([layout.output], {layout.input: as_input(unit, layout.half)})[0]
            return layout.decode(torch.from_numpy(answer).to(self.device), self.path)
        outputs = self._run(["boxes", "scores"], {"images": unit.cpu().numpy()})
        if any(out.dtype.kind != "f" for out in outputs):
            raise UserError(f"{self.path}: answers {' and '.join(str(o.dtype) for o in outputs)}; export it again",
                            "bad-output")
        boxes, scores = (torch.from_numpy(out).to(self.device) for out in outputs)
        return boxes, scores


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
    if not path.is_file():
        raise UserError(f"{path}: no such file; nothing is downloaded, so give the path of a trained model, such as "
                        "runs/train/exp/weights/best.pt", "missing-file")
    if path.suffix in (".pt", ".pth"):
        chosen = select_device(str(device))
        return TorchRuntime(path, load_model(path), chosen, half)
    runtime = OnnxRuntime(path, device) if path.suffix == ".onnx" else TorchScriptRuntime(path, device, trust)
    if half and not runtime.half:
        raise UserError(f"--half: {path} was exported in fp32; export it again with --half, or drop the flag here",
                        "wrong-precision")
    return runtime


def as_unit(images: Tensor) -> Tensor:
    """uint8 images -> float32 in [0, 1]; float images are taken as they are, in float32."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def first_line(error: BaseException) -> str:
    """The first sentence of a library's error, which may be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
