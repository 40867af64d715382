"""The settings of `export.py`."""

import argparse
from dataclasses import dataclass

from utils.cli import number, positive
from utils.errors import UserError
from utils.frame import SIDE
from utils.options import Options, device_option, option, plugin_option, size_option
from utils.other_programs import OTHER_RUNTIMES

FORMATS = {"onnx": ".onnx", "torchscript": ".torchscript"}
OPSET = 17  # has every operator that is needed, and onnxruntime reads it since 1.12


def known_format(name: str) -> str:
    """An argparse type: a format of `FORMATS`."""
    if name not in FORMATS:
        raise argparse.ArgumentTypeError(f"{name!r} is not among {', '.join(FORMATS)}; for other runtimes "
                                         f"{OTHER_RUNTIMES}")
    return name


@dataclass(frozen=True)
class ExportConfig(Options):
    """The settings of `export.py`."""

    GROUPS = {"weights": "model", "include": "file", "opset": "ONNX", "device": "machine"}

    weights: str = option("", "checkpoint (.pt)", required=True, metavar="FILE")
    plugin: tuple[str, ...] = plugin_option()
    include: tuple[str, ...] = option(("torchscript", "onnx"), f"formats: {', '.join(FORMATS)}", nargs="+",
                                      type=known_format, metavar="FORMAT")
    imgsz: tuple[int, ...] | None = size_option()  # None: the size it was trained at
    batch_size: int = option(1, "images per call (--dynamic: the one checked)", type=positive, metavar="N")
    dynamic: bool = option(False, "leave batch, height and width free")
    half: bool = option(False, "fp16 inside; inputs and outputs stay float32")
    opset: int | None = option(None, f"operator set (default {OPSET})", type=number(int, 11, 25), metavar="N")
    simplify: bool = option(False, "fold and tidy the graph with onnxslim")
    device: str = device_option("cpu")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frame in pixels."""
        sides = self.imgsz or (SIDE,)
        return sides[0], sides[-1]

    def check(self) -> "ExportConfig":
        """Validate; returns itself. Raises one `UserError` that names every invalid flag or combination."""
        problems = []
        if not self.weights.endswith((".pt", ".pth")):
            problems.append(f"--weights {self.weights}: only checkpoints (.pt, .pth) can be exported")
        problems += [f"{flag} is about ONNX; add --include onnx, or drop it"
                     for flag, value in (("--opset", self.opset), ("--simplify", self.simplify))
                     if value and "onnx" not in self.include]
        if problems:
            raise UserError("; ".join(problems), code="bad-flags")
        return self
