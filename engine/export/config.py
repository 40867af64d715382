"""The settings of `export.py`."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.export.formats.table import CONVERTERS, FORMATS, OTHER_NAMES, format_of
from engine.inference.outputs import LAYOUTS
from utils.cli import Rule, check_flags, flag_of, fraction, number, positive
from utils.errors import UserError, nearest
from utils.frame import SIDE
from utils.options import Options, device_option, option, plugin_option, size_option
from utils.select import SelectConfig

OPSET = 17  # has every operator that is needed, and onnxruntime reads it since 1.12
OPSETS = (12, 21)
INSIDE = SelectConfig(0.25, 0.45, 300)  # of --nms: detect.py's, and as many as Ultralytics' files give
IMAGES = 128  # of --data: enough for ranges of activations, and a minute of comparing
NEEDS_NMS, NEEDS_DATA = "is of the selection inside the file; add --nms", "is about --data; name data with it"
EXPORT_RULES = [
    *(Rule(flag, lambda config, _: config.nms, NEEDS_NMS)
      for flag in ("conf_thres", "iou_thres", "max_det", "agnostic_nms")),
    Rule("images", lambda config, _: config.data is not None, NEEDS_DATA),
    Rule("int8", lambda config, _: not config.half, "8 bits or 16: give --int8 or --half"),
    Rule("int8", lambda config, _: config.data is not None, "ranges of values are measured on your images; add --data "
         "DATA.yaml, or a folder of images"),
]


def known_format(name: str) -> str:
    """An argparse type: a format of `FORMATS`, also by another name."""
    name = OTHER_NAMES.get(name.lower(), name.lower())
    if name in CONVERTERS:
        raise argparse.ArgumentTypeError(f"{name!r} is not written here: {CONVERTERS[name]}; give it the file of "
                                         "--include " + next(known for known in ("onnx", "pt2", "torchscript")
                                                             if known in CONVERTERS[name]))
    if name not in FORMATS:
        hint = nearest(name, [*FORMATS, *CONVERTERS]) or "other runtimes' converters read onnx"
        raise argparse.ArgumentTypeError(f"{name!r} is not among {', '.join(FORMATS)}; {hint}")
    return name


@dataclass(frozen=True)
class ExportConfig(Options):
    """The settings of `export.py`."""

    GROUPS = {"weights": "model", "include": "file", "opset": "ONNX, of which OpenVINO and TensorRT files are made",
              "nms": "selection in the file", "data": "comparison with PyTorch, and calibration", "device": "machine"}

    weights: str = option("", "checkpoint (.pt)", required=True, metavar="FILE")
    plugin: tuple[str, ...] = plugin_option()
    include: tuple[str, ...] = option(("onnx",), f"formats: {', '.join(FORMATS)}; default onnx", nargs="+",
                                      type=known_format, metavar="FORMAT")
    output: str | None = option(None, "its name, beside the weights, or its path; default: as the weights",
                                metavar="PATH")
    imgsz: tuple[int, ...] | None = size_option()  # None: the size it was trained at
    batch_size: int = option(1, "images per call (--dynamic: the one checked)", type=positive, metavar="N")
    dynamic: bool = option(False, "leave batch, height and width free")
    half: bool = option(False, "fp16 inside; inputs and outputs stay float32")
    int8: bool = option(False, "openvino: 8 bits, calibrated on --data")
    layout: str = option("plain", "of the outputs: plain, or peer, as Ultralytics has it", choices=LAYOUTS)
    opset: int | None = option(None, f"operator set (default {OPSET})", type=number(int, *OPSETS), metavar="N")
    simplify: bool = option(False, "fold and tidy the graph with onnxslim")
    nms: bool = option(False, "onnx, openvino: the file gives detections")
    conf_thres: float = option(INSIDE.conf, "least score of a detection", type=fraction, metavar="F")
    iou_thres: float = option(INSIDE.iou, "greatest overlap of two boxes", type=fraction, metavar="F")
    max_det: int = option(INSIDE.max_det, "most detections of an image", type=number(int, 1, 100_000), metavar="N")
    agnostic_nms: bool = option(False, "NMS across classes")
    data: str | None = option(None, "data set, its YAML, or a folder of images; default: built-in scenes",
                              metavar="DATA")
    images: int = option(IMAGES, "most images of --data that are used", type=positive, metavar="N")
    device: str = device_option("cpu")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frame in pixels."""
        sides = self.imgsz or (SIDE,)
        return sides[0], sides[-1]

    @property
    def selection(self) -> SelectConfig | None:
        """The thresholds of `--nms`; None where selection is left to the reader."""
        return SelectConfig(self.conf_thres, self.iou_thres, self.max_det, agnostic=self.agnostic_nms) \
            if self.nms else None

    def paths(self) -> dict[str, Path]:
        """format -> the file or folder to write."""
        return {name: FORMATS[name].path(self._stem(), self.int8) for name in dict.fromkeys(self.include)}

    def _stem(self) -> Path:
        weights = Path(self.weights)
        if self.output is None:
            return weights.with_suffix("")
        given = Path(self.output)
        if given.is_dir() and not given.name.endswith(FORMATS["openvino"].suffix):
            return given / weights.stem
        suffix = next((kind.suffix for kind in FORMATS.values() if given.name.endswith(kind.suffix)), "")
        given = given.with_name(given.name.removesuffix(suffix).removesuffix("_int8" * self.int8) or weights.stem)
        return weights.with_name(given.name) if given == Path(given.name) and "/" not in self.output else given

    def check(self) -> "ExportConfig":
        """Validate; returns itself. Raises one `UserError` that names every invalid flag or combination."""
        problems = [*self._problems()]
        if problems:
            raise UserError("; ".join(problems), code="bad-flags")
        check_flags(self, EXPORT_RULES)
        return self

    def _problems(self) -> Iterator[str]:
        if not self.weights.endswith((".pt", ".pth")):
            yield f"--weights {self.weights}: only checkpoints (.pt, .pth) can be exported"
        if self.output is not None and not self.output.strip():
            yield "--output: its value is empty; is a variable unset? give a value, or drop the flag"
        elif self.output is not None and self.output.endswith((".pt", ".pth")):
            yield f"--output {self.output}: is a name of a checkpoint; give one of the exported file"
        elif self.output is not None and (found := format_of(self.output)) not in (None, *self.include):
            yield f"--output {self.output}: is a name of {found}; add --include {found}, or give a name without suffix"
        for name in ("half", "int8", "dynamic", "nms", "layout", "opset", "simplify"):
            if getattr(self, name) == type(self).__dataclass_fields__[name].default:
                continue
            able = [known for known, kind in FORMATS.items() if name in kind.options]
            unable = [known for known in self.include if known not in able]
            if unable and (name not in ("opset", "simplify") or len(unable) == len(self.include)):
                yield f"{flag_of(name)}: {' and '.join(unable)} cannot have it, {', '.join(able)} can; give " \
                      f"--include {able[0]}, or drop the flag"
