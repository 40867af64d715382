"""A trained detector as Python sees it: `load_model("best.pt").predict("images/")`."""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from engine.inference.detections import ImageDetections
from engine.inference.hints import SliceHint
from engine.inference.inputs import Inputs, open_inputs
from engine.inference.predictor import make_predictor
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.open import load_runtime
from engine.inference.settings import config_of, in_python, python_names
from engine.inference.tracking import Tracker
from models.detector import Detector
from utils.device import select_device
from utils.errors import UserError

Opener = Callable[[str], list[Runtime]]  # the models on a device


class Model:
    """A detector that is ready to run, or several whose detections are merged.

    Nothing of a call stays for the next one, and calls from several threads give what they would give one by one.
    """

    def __init__(self, open_on: Opener, device: str = "") -> None:
        self._open, self._device, self._lock = open_on, str(device), threading.Lock()
        self._opened: dict[str, list[Runtime]] = {}
        self._on(self._device)

    @classmethod
    def of(cls, detector: Detector, device: str = "", half: bool = False) -> "Model":
        """A model that was built or loaded as a `Detector`, which stays as it is."""
        name = Path(str(detector.config.get("name") or "model"))
        return cls(lambda place: [TorchRuntime(name, copy.deepcopy(detector), select_device(place), half)], device)

    def predict(self, source: Any, *, stream: bool = False, rgb: bool = False, device: str | None = None,
                **settings: Any) -> list[ImageDetections] | Iterator[ImageDetections]:
        """What is found in each picture of `source`: a list, or for videos, streams and iterators, and with
        stream=True, a generator, which holds a few pictures at a time.

        source: a path, a folder (not its subfolders), a glob, a .txt list, a camera's number, the URL of a stream; an
        array (H, W, 3) uint8 BGR, as OpenCV gives it (rgb=True: RGB); a PIL image; a tensor (3, H, W) or (B, 3, H, W)
        RGB, uint8 or float in [0, 1]; or a list or an iterator of these. Grey pictures are repeated over the channels,
        transparency is left out.
        device: instead of that of `load_model`, for this call.

        settings, None for the default:
        conf=0.25, iou=0.45, max_det=1000, classes=None (names or indices), agnostic=False: the selection of boxes;
        imgsz=None (the size of the training): pixels of the longer side, or (height, width);
        slice=None: pixels of windows that large pictures are looked at in, overlap=0.2, with_full=False, merge="nmm";
        augment=False: also at other scales, and mirrored; track=None: "bytetrack" or "ocsort" follows objects;
        vid_stride=1: every n-th frame of a video; reconnect: seconds to wait for a broken stream; max_pixels: larger
        pictures are refused.

        Raises `UserError` for a source or a setting that cannot be. Files of a folder that cannot be read are skipped
        with a warning each; another tells where slice= would show more.
        """
        with python_names():
            runtimes = self._on(self._device if device is None else str(device))
            config = config_of([str(runtime.path) for runtime in runtimes], source, settings)
            inputs = open_inputs(source, rgb, config)
            predictor = make_predictor(runtimes, config)
            # an iterator may be a camera, or fill the same array again: it is asked when its picture is due
            results = predictor.stream(inputs, ahead=not isinstance(source, Iterator))
            if config.track:
                results = map(Tracker(config.track, config.conf_thres), results)
        look = predictor.looks.looks[0]
        results = _told(results, inputs, SliceHint(look.runtime, look.size, sliced=config.slice is not None))
        return results if stream or inputs.is_endless else list(results)

    __call__ = predict

    def to(self, device: str) -> "Model":
        """Run on this device from now on; returns itself. Raises `UserError` for one that is not there."""
        with python_names():
            self._on(str(device))
        self._device = str(device)
        self._opened = {self._device: self._opened[self._device]}
        return self

    @property
    def runtimes(self) -> list[Runtime]:
        """What runs the files, on the device in use."""
        return self._on(self._device)

    @property
    def names(self) -> list[str]:
        """The names of the classes."""
        return self.runtimes[0].names

    @property
    def model(self) -> nn.Module:
        """The PyTorch module of a checkpoint, fused for inference: `forward`, `loss`, `decode`, `select`. Raises
        `UserError` for an exported file."""
        runtime = self.runtimes[0]
        if not isinstance(runtime, TorchRuntime):
            raise UserError(f"{runtime.path}: an exported file holds no PyTorch module; load the checkpoint (.pt)",
                            "no-module")
        return runtime.model

    def _on(self, device: str) -> list[Runtime]:
        with self._lock:
            if device not in self._opened:
                self._opened[device] = self._open(device)
            return self._opened[device]

    def __repr__(self) -> str:
        names = self.names
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        files = ", ".join(str(runtime.path) for runtime in self.runtimes)
        size = "x".join(map(str, self.runtimes[0].choose_size()))
        return f"Model({files} on {self.runtimes[0].device}, {size} px, {len(names)} classes: {shown})"


def load_model(path: str | Path | Sequence[str | Path], device: str = "", half: bool = False,
               trust: bool = False) -> Model:
    """A model file that is ready to predict: a checkpoint of this project or another (docs/originals.md), or what
    export.py wrote, by its suffix. Several paths make an ensemble.

    device: '' is the first GPU or else the CPU; 'cpu', '0', ... half: compute in 16 bits. trust: load a .torchscript,
    which is a program, from elsewhere. Raises `UserError` for a file that is missing, damaged or of another kind.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths or not all(str(file).strip() for file in paths):
        raise UserError("load_model: an empty path; give a checkpoint (.pt) or an exported file", "missing-argument")
    with python_names():
        return Model(lambda place: [load_runtime(file, place, half, trust) for file in paths], device)


def _told(results: Iterator[ImageDetections], inputs: Inputs, hint: SliceHint) -> Iterator[ImageDetections]:
    """The results, with warnings of what a user should know."""
    with python_names():
        for result in results:
            for line in hint(*result.image.shape[:2]):
                warnings.warn(in_python(line), stacklevel=3)
            yield result
    for line in inputs.remarks:
        warnings.warn(in_python(line), stacklevel=3)
