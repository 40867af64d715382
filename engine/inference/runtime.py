"""One face for a trained detector, whatever file it lies in: .pt (checkpoint), .onnx or .torchscript.

Legend: B images in a batch, H, W pixels of the input frame, N candidate boxes of one image, C classes.
An exported file takes `images` (B, 3, H, W) float32 RGB in [0, 1] and gives `boxes` (B, N, 4) float32 xyxy input pixels
and `scores` (B, N, C) float32; what else one must know to use it travels inside it as a `Card`.
"""

import json
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import letterbox
from engine.inference.onnx_layouts import Layout, Slot, as_input, find_layout
from models import load_model
from utils.cli import input_size
from utils.config import MAX_CLASSES
from utils.device import select_device
from utils.errors import UserError, printable, shown
from utils.select import EVALUATION, SELECTORS, SelectConfig, Selector, find_selector
from utils.structures import Detections, Letterbox
from utils.trust import is_own

CARD_FORMAT = "assn-export/1"
MAX_CARD = 1 << 24  # characters
CARD_KEY = "assn"  # the entry of ONNX metadata_props, and the stem of TorchScript's extra file


@dataclass(frozen=True)
class Card:
    """What an exported file says about itself; kept inside the file as JSON.

    names: class names; strides: pixels per cell of each level; size: (height, width) where the file takes no
    other, else None; batch: images per call where that is fixed, else None; half: weights and most arithmetic in fp16;
    device: the device type a TorchScript file was traced on, which it is bound to ("" where it is not bound);
    trained: `data` and `imgsz` of the training, where they are known;
    select: how detections are chosen from boxes and scores, one of `SELECTORS`; thresholds: the model's own.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    size: tuple[int, int] | None
    batch: int | None
    half: bool
    device: str = ""
    trained: dict[str, Any] = field(default_factory=dict)
    select: str = "nms"
    thresholds: SelectConfig = EVALUATION
    format: str = CARD_FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Card":
        """Read a card back. Raises `UserError` for files that this project did not write, or a newer version of it."""
        if not text:
            raise UserError(f"{path}: was not written by this project's export.py (no card inside); export it again")
        try:
            content = json.loads(text) if len(text) < MAX_CARD else None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{path}: its card, which says how to use it, is damaged; export it again")
        if content.get("format") != CARD_FORMAT or content.get("select") not in tuple(SELECTORS):
            found = f"{content.get('format')}, select {shown(content.get('select'), 60)}"
            raise UserError(f"{path}: its card ({found}) is not what this version reads ({CARD_FORMAT}, select "
                            f"{' or '.join(SELECTORS)}); export it again", code="unknown-selection")
        wrong = next((key for key in _CARD_CHECKS if key not in content or not _CARD_CHECKS[key](content[key])), None)
        if wrong:
            raise UserError(f"{path}: its card is damaged: {wrong} {shown(content.get(wrong))[:80]}; export it again")
        size = content["size"] and tuple(content["size"])
        known = {key: content[key] for key in (*_CARD_CHECKS, "device", "trained", "select") if key in content}
        return cls(**{**known, "names": tuple(map(printable, content["names"])), "strides": tuple(content["strides"]),
                      "size": size, "device": str(content.get("device", ""))[:20],
                      "thresholds": _thresholds(content.get("thresholds"), path)})


def _whole(value: Any, least: int = 1, most: int = 1 << 16) -> bool:
    return type(value) is int and least <= value <= most


def _fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _switch(value: Any) -> bool:
    return isinstance(value, bool)


def _list_of(value: Any, check: Callable[[Any], bool], most: int) -> bool:
    return isinstance(value, list) and 0 < len(value) <= most and all(map(check, value))


def _thresholds(stored: Any, path: Path) -> SelectConfig:
    """The thresholds in a card; files of before have none, and NMS."""
    if stored is None:
        return EVALUATION
    checks = {"conf": _fraction, "iou": _fraction, "max_det": _whole, "agnostic": _switch, "multi_label": _switch}
    if not isinstance(stored, dict) or not all(fits(stored.get(key)) for key, fits in checks.items()):
        raise UserError(f"{path}: its card is damaged: thresholds {shown(stored)[:80]}; export it again")
    return SelectConfig(**{key: stored[key] for key in checks})


_CARD_CHECKS: dict[str, Callable[[Any], bool]] = {
    "names": lambda v: _list_of(v, lambda name: isinstance(name, str) and len(name) <= 1000, MAX_CLASSES),
    "strides": lambda v: _list_of(v, _whole, 16), "size": lambda v: v is None or _list_of(v, _whole, 2) and len(v) == 2,
    "batch": lambda v: v is None or _whole(v), "half": _switch}


class Runtime:
    """A detector that is ready to run; the subclasses say how one batch is computed.

    names: class names; strides: pixels per cell of each level; fixed_size: the only (height, width) it takes, or None;
    fixed_batch: the only batch size it takes inside, or None (`predict` takes any: it pads or splits); trained,
    thresholds: see `Card`; device: where images are best put and where `boxes` and `scores` lie.
    """

    def __init__(self, path: Path, card: Card, device: torch.device, selection: Selector | None = None) -> None:
        self.path, self.device = path, device
        self.names, self.strides = list(card.names), list(card.strides)
        self.fixed_size, self.fixed_batch, self.half = card.size, card.batch, card.half
        self.thresholds, self._selector = card.thresholds, find_selector(selection or card.select)
        trained = card.trained if isinstance(card.trained, dict) else {}
        self.trained = trained if _list_of(trained.get("imgsz", [640]), _whole, 2) else {}

    def choose_size(self, wanted: Sequence[int] | None = None) -> tuple[int, int]:
        """(height, width) to run at: what the file is bound to, or `wanted`, or the training's size, or 640.

        Raises `UserError` where `wanted` is not what the file is bound to.
        """
        if self.fixed_size and wanted is None:
            return self.fixed_size
        size = input_size(wanted or self.trained.get("imgsz", [640])[-1:], max(self.strides))
        if self.fixed_size not in (None, size):
            bound = " ".join(map(str, self.fixed_size))
            raise UserError(f"--imgsz: {self.path} was exported for {bound} only; give that, or export with --dynamic")
        return size

    def prepare(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, Letterbox]:
        """BGR (H, W, 3) uint8 -> RGB (1, 3, h, w) uint8 and its letterbox, with as little padding as the file allows.

        size: (height, width) in pixels, see `choose_size`.
        """
        placed, transform = letterbox(image, size, auto=self.fixed_size is None, stride=max(self.strides),
                                      antialias=True)
        return torch.from_numpy(cv2.cvtColor(placed, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None], transform

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), uint8 or float in [0, 1] -> boxes (B, N, 4) xyxy input pixels, scores (B, N, C).

        Both answers are float32. Raises `UserError` where the file takes another size.
        """
        height, width = images.shape[-2:]
        if self.fixed_size and (height, width) != self.fixed_size:
            bound = "x".join(map(str, self.fixed_size))
            raise UserError(f"{self.path}: exported for {bound} pixels, got {height}x{width}; give that --imgsz, or "
                            "export it again with --dynamic")
        stride = max(self.strides)
        if height % stride or width % stride:
            raise UserError(f"{self.path}: takes heights and widths in multiples of {stride}, got {height}x{width}")
        step = self.fixed_batch or len(images)
        parts = []
        with torch.inference_mode():
            for part in images.to(self.device, non_blocking=True).split(step):
                short = step - len(part)
                padded = torch.cat((part, part.new_zeros(short, *part.shape[1:]))) if short else part
                parts.append([out[:len(part)] for out in self._as_promised(self._predict(padded), len(padded))])
        boxes, scores = zip(*parts, strict=True)
        return torch.cat(boxes), torch.cat(scores)

    def _as_promised(self, answer: Any, batch: int) -> tuple[Tensor, Tensor]:
        """The boxes and scores that a file answered with. Raises `UserError` where these are of another form."""
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        count = shapes[0][1] if len(shapes) == 2 and isinstance(shapes[0], tuple) and len(shapes[0]) == 3 else 0
        if shapes != [(batch, count, 4), (batch, count, len(self.names))]:
            raise UserError(f"{self.path}: answers {shown(shapes)} to {batch} images, not boxes (B, N, 4) and "
                            f"scores (B, N, {len(self.names)}); export it again")
        return parts[0].float(), parts[1].float()

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def select(self, boxes: Tensor, scores: Tensor, config: SelectConfig | None = None) -> list[Detections]:
        """The detections of each image in what `predict` gave; config: by default the model's `thresholds`."""
        return self._selector(boxes, scores, config or self.thresholds)


class TorchRuntime(Runtime):
    """A PyTorch model, fused, in channels-last order, the faster one on CPUs as on GPUs.

    half: fp16 on a GPU and bf16 on a CPU, where fp16 is some hundred times slower.
    """

    def __init__(self, path: Path, model: torch.nn.Module, device: torch.device, half: bool) -> None:
        card = Card(tuple(model.names), tuple(model.strides), None, None, half, trained=model.config.get("trained", {}),
                    thresholds=model.thresholds)
        super().__init__(path, card, device, model.select)
        self.dtype = (torch.float16 if device.type == "cuda" else torch.bfloat16) if half else torch.float32
        self.model = model.eval().fuse().to(device, self.dtype, memory_format=torch.channels_last)

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images if images.dtype == torch.uint8 else images.to(self.dtype)
        return self.model.decode(self.model(images.contiguous(memory_format=torch.channels_last)))


class TorchScriptRuntime(Runtime):
    """A traced file; it runs on the type of device it was traced on, since tracing writes the device into the file."""

    def __init__(self, path: Path, device: str | torch.device, trust: bool = False) -> None:
        try:
            whole = zipfile.is_zipfile(path)
        except zipfile.BadZipFile:
            whole = False
        if not whole:
            raise UserError(f"{path}: truncated or not TorchScript; export it again")
        if not trust and not is_own(path):
            raise UserError(f"{path}: is a TorchScript program, which runs when it is loaded, and export.py did not "
                            "write it for this user on this machine; --trust runs it all the same, export.py makes one "
                            "from the checkpoint, and .onnx holds no program")
        extra = {f"{CARD_KEY}.json": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "deprecated": the format has no successor that needs no compiler
                self.module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path}: truncated or not TorchScript ({first_line(error)}); export it again") from None
        text = extra[f"{CARD_KEY}.json"]
        card = Card.from_json(text.decode(errors="replace") if isinstance(text, bytes) else text, path)
        chosen = select_device(card.device if device == "" else str(device))
        if (chosen.type, chosen.index or 0) != (card.device, 0):
            word, other = ("cpu", "with --device 0") if card.device == "cpu" else ("0", "with --device cpu")
            raise UserError(f"{path}: was traced for --device {word} and runs only there; give that here, or export it "
                            f"again {other}")
        super().__init__(path, card, chosen)
        self.module.to(chosen).eval()

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self.module(as_unit(images))
        except RuntimeError as error:
            raise UserError(f"{self.path}: failed on {list(images.shape)}: {str(error).strip()[-150:]!r}") from None


class OnnxRuntime(Runtime):
    """An ONNX file run by onnxruntime, on the CPU or through its CUDA provider."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs onnxruntime, which is not installed; pip install onnxruntime "
                            "(or onnxruntime-gpu)") from None
        gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        chosen = torch.device("cpu") if device == "" and not gpu else select_device(str(device))
        if chosen.type == "cuda" and not gpu:
            raise UserError(f"--device {chosen.index}: the installed onnxruntime is built without CUDA; "
                            "pip install onnxruntime-gpu, or use --device cpu")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # silent: its errors come as exceptions too, its warnings no user can act on
        providers = [("CUDAExecutionProvider", {"device_id": chosen.index})] if chosen.type == "cuda" else []
        providers.append("CPUExecutionProvider")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise UserError(f"{path}: truncated or not an ONNX file ({first_line(error)}); export it again") from None
        try:
            words = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            raise UserError(f"{path}: what it says about itself is damaged: not UTF-8; export it again") from None
        self.path = path
        self.layout = None if CARD_KEY in words else self._foreign_layout(words)
        super().__init__(path, self._card(words), chosen)

    def _foreign_layout(self, words: dict[str, str]) -> Layout:
        """How to use a file of another program."""
        slots = [[Slot(s.name, tuple(n if isinstance(n, int) and n > 0 else None for n in s.shape), s.type)
                  for s in side] for side in (self.session.get_inputs(), self.session.get_outputs())]
        layout = find_layout(*slots, words, self.path, lambda output, inputs: self._run([output], inputs)[0])
        kind = "YOLOv5 or YOLOv7" if layout.anchors else "YOLOv8"
        count = len(layout.names)
        print(f"{self.path}: not of this project; read as {kind} writes it, {count} class{'es' * (count > 1)}"
              + ("" if words.get("names") else ", whose names it does not hold"), file=sys.stderr)
        return layout

    def _card(self, words: dict[str, str]) -> Card:
        layout = self.layout
        if layout is None:
            return Card.from_json(words[CARD_KEY], self.path)
        trained = {"imgsz": list(layout.imgsz[:2])} if layout.imgsz else {}
        return Card(layout.names, layout.strides, layout.size, layout.batch, layout.half, trained=trained)

    def _run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self.session.run(outputs, inputs)
        except Exception as error:  # as above
            shapes = [list(value.shape) for value in inputs.values()]
            raise UserError(f"{self.path}: failed on {shapes[0]}: {first_line(error)}") from None

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        unit, layout = as_unit(images), self.layout
        if layout is not None:
            answer = self._run([layout.output], {layout.input: as_input(unit, layout.half)})[0]
            return layout.decode(torch.from_numpy(answer).to(self.device), self.path)
        outputs = self._run(["boxes", "scores"], {"images": unit.cpu().numpy()})
        if any(out.dtype.kind != "f" for out in outputs):
            raise UserError(f"{self.path}: answers {' and '.join(str(o.dtype) for o in outputs)}; export it again")
        boxes, scores = (torch.from_numpy(out).to(self.device) for out in outputs)
        return boxes, scores


def load_runtime(path: Path | str, device: str | torch.device = "", half: bool = False,
                 trust: bool = False) -> Runtime:
    """Open a checkpoint or an exported file, told apart by its suffix (.pt, .onnx, .torchscript).

    device: '' takes the first GPU that the file and the installed libraries can use, or else the CPU; 'cpu', '0', ...
    half: compute in 16 bits; an exported file must have been exported so. trust: load a .torchscript, which is a
    program, that export.py did not write here.
    Raises `UserError` for a missing, truncated or foreign file, or a device that the file cannot use.
    """
    path = Path(path)
    kinds = {".pt": "a checkpoint", ".pth": "a checkpoint", ".onnx": "ONNX", ".torchscript": "TorchScript"}
    if path.suffix not in kinds:
        known = ", ".join(f"{suffix} ({what})" for suffix, what in kinds.items())
        raise UserError(f"{path}: unknown kind of weights {path.suffix!r}; known: {known}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; nothing is downloaded, so give the path of a trained model, such as "
                        "runs/train/exp/weights/best.pt")
    if path.suffix in (".pt", ".pth"):
        chosen = select_device(str(device))
        return TorchRuntime(path, load_model(path), chosen, half)
    runtime = OnnxRuntime(path, device) if path.suffix == ".onnx" else TorchScriptRuntime(path, device, trust)
    if half and not runtime.half:
        raise UserError(f"--half: {path} was exported in fp32; export it again with --half, or drop the flag here")
    return runtime


def as_unit(images: Tensor) -> Tensor:
    """uint8 images -> float32 in [0, 1]; float images are taken as they are, in float32."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def first_line(error: BaseException) -> str:
    """The first sentence of a library's error, which may go on for a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
