"""The settings of `detect.py` and `export.py`."""

import argparse
from dataclasses import dataclass

from engine.inference.export import FORMATS, OPSET
from utils.cli import number, positive
from utils.errors import UserError
from utils.options import Options, device_option, option, plugin_option, size_option

OTHER_RUNTIMES = "use --include onnx, which that runtime's own converter reads"
NO_SELECTION = "files give boxes and scores; detect.py and val.py choose, with --conf-thres --iou-thres --max-det"
DROP = "drop the flag"
EXPORT_UNSUPPORTED = {
    "--int8": "use --half", "--fp16": "use --half", "--format": "use --include",
    "--dynamic-batch": "use --dynamic, which leaves batch and size free",
    "--grid": f"boxes are always decoded, {DROP}", "--data": f"class names come from the weights, {DROP}",
    "--inplace": DROP, "--train": DROP, "--optimize": DROP, "--keras": OTHER_RUNTIMES, "--workspace": OTHER_RUNTIMES,
    **dict.fromkeys(("--nms", "--agnostic-nms", "--end2end", "--include-nms", "--max-wh", "--topk-per-class",
                     "--topk-all", "--iou-thres", "--conf-thres"), NO_SELECTION),
}


def known_format(word: str) -> str:
    """An argparse type: a format of `FORMATS`."""
    if word not in FORMATS:
        raise argparse.ArgumentTypeError(f"{word!r} is not among {', '.join(FORMATS)}; for other runtimes "
                                         f"{OTHER_RUNTIMES}")
    return word


@dataclass(frozen=True)
class ExportConfig(Options):
    """The settings of `export.py`."""

    weights: str = option("", "checkpoint (.pt)", required=True)
    include: tuple[str, ...] = option(("torchscript", "onnx"), f"formats: {', '.join(FORMATS)}", nargs="+",
                                      type=known_format, metavar="FORMAT")
    imgsz: tuple[int, ...] | None = size_option()  # None: the size it was trained at
    batch_size: int = option(1, "images per call (--dynamic: the one checked)", type=positive)
    dynamic: bool = option(False, "leave batch, height and width free")
    half: bool = option(False, "fp16 inside; inputs and outputs stay float32")
    opset: int | None = option(None, f"ONNX operator set (default {OPSET})", type=number(int, 11, 25))
    simplify: bool = option(False, "ONNX: fold and tidy the graph with onnxslim")
    device: str = device_option("cpu")
    plugin: tuple[str, ...] = plugin_option()

    def check(self) -> "ExportConfig":
        """Itself. Raises `UserError` for flags that make no sense, alone or together."""
        if not self.weights.endswith((".pt", ".pth")):
            raise UserError(f"--weights {self.weights}: only checkpoints (.pt, .pth) can be exported",
                            code="not-a-checkpoint")
        if "onnx" not in self.include and (self.opset or self.simplify):
            flag = "--opset" if self.opset else "--simplify"
            raise UserError(f"{flag} is about ONNX; add --include onnx, or drop it", code="flag-without-effect")
        return self
