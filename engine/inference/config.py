"""The settings of `detect.py` and `export.py`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from engine.inference.view_flags import (
    VIEW_RULES,
    augment_option,
    merge_option,
    overlap_option,
    slice_option,
    with_full_option,
)
from utils.cli import Rule, check_flags, class_indices, fraction, not_empty, number, positive
from utils.errors import UserError
from utils.frame import SIDE
from utils.options import Options, device_option, max_pixels_option, option, plugin_option, size_option
from utils.reporting.run_log import NAME_RULE
from utils.select import SelectConfig

FORMATS = {"onnx": ".onnx", "torchscript": ".torchscript"}
OPSET = 17  # has every operator that is needed, and onnxruntime reads it since 1.12
OTHER_RUNTIMES = "use --include onnx, which that runtime's own converter reads"
NO_SELECTION = "files give boxes and scores; detect.py and val.py choose, with --conf-thres --iou-thres --max-det"
DROP = "drop the flag"
IOU = 0.45
DETECT_UNSUPPORTED = {
    "--view-img": "results are files, open those in the results folder", "--save-csv": "use --save-json or --save-txt",
    "--update": f"checkpoints stay as they are, {DROP}",
    "--visualize": f"feature maps are not drawn, {DROP}", "--dnn": f"ONNX files run with onnxruntime, {DROP}",
    "--no-trace": f"nothing is traced here, {DROP}", "--data": f"class names come from the weights, {DROP}",
}
EXPORT_UNSUPPORTED = {
    "--int8": "use --half", "--fp16": "use --half", "--format": "use --include",
    "--dynamic-batch": "use --dynamic, which leaves batch and size free",
    "--grid": f"boxes are always decoded, {DROP}", "--data": f"class names come from the weights, {DROP}",
    "--inplace": DROP, "--train": DROP, "--optimize": DROP, "--keras": OTHER_RUNTIMES, "--workspace": OTHER_RUNTIMES,
    **dict.fromkeys(("--nms", "--agnostic-nms", "--end2end", "--include-nms", "--max-wh", "--topk-per-class",
                     "--topk-all", "--iou-thres", "--conf-thres"), NO_SELECTION),
}

NO_PICTURES = "no pictures are drawn with --nosave; drop one of the two"
DETECT_RULES = [
    *not_empty(("source", "project", "name")), NAME_RULE,
    Rule("weights", lambda config, _: all(file.strip() for file in config.weights),
         "a name is empty; is a variable unset? give a value, or drop it"),
    Rule("save_conf", lambda config, _: config.save_txt, "adds scores to label rows; add --save-txt"),
    *(Rule(flag, lambda config, _: not config.nosave, NO_PICTURES)
      for flag in ("line_thickness", "hide_labels", "hide_conf")),
    Rule("hide_conf", lambda config, _: not config.hide_labels, "--hide-labels hides both class and score; drop one"),
    *VIEW_RULES,
]


@dataclass(frozen=True)
class DetectConfig(Options):
    """The settings of `detect.py`."""

    weights: tuple[str, ...] = option((), "checkpoint (.pt) or exported file (.onnx, .torchscript); several are merged",
                                      nargs="+", required=True)
    source: str = option("", "picture, video, folder, glob, or .txt list of paths", required=True)
    imgsz: tuple[int, ...] | None = size_option()  # None: the size that the file is bound to or was trained at
    conf_thres: float = option(0.25, "least score of a detection", type=fraction)
    iou_thres: float | None = option(None, f"NMS: greatest overlap of two boxes (default {IOU})", type=fraction)
    max_det: int = option(1000, "most detections per image", type=positive)
    classes: tuple[str, ...] | None = option(None, "keep these only, by index or name", nargs="+", metavar="CLASS")
    agnostic_nms: bool = option(False, "NMS across classes")
    slice: int | None = slice_option()
    overlap: float | None = overlap_option()
    with_full: bool = with_full_option()
    merge: str | None = merge_option()
    augment: bool = augment_option()
    device: str = device_option()
    max_pixels: int = max_pixels_option()
    half: bool = option(False, "compute in 16 bits (fp16 on a GPU, bf16 on a CPU)")
    trust: bool = option(False, "load a .torchscript, which is a program, from elsewhere")
    nosave: bool = option(False, "write no pictures and videos")
    save_txt: bool = option(False, "labels/<name>.txt in YOLO form, one for each image")
    save_conf: bool = option(False, "add the score to the rows of --save-txt")
    save_crop: bool = option(False, "crops/<class>/<name>_<n>.jpg")
    save_json: bool = option(False, "predictions.json, rows like COCO results")
    project: str = option("runs/detect", "results go to <project>/<name>")
    name: str = option("exp", "a number is added where the folder exists")
    exist_ok: bool = option(False, "write into <project>/<name> even where it exists")
    line_thickness: int | None = option(None, "of the boxes drawn (default: by picture and box)",
                                        type=number(int, 1, 100), metavar="PX")
    hide_labels: bool = option(False, "draw boxes without class and score")
    hide_conf: bool = option(False, "draw the class without the score")
    vid_stride: int = option(1, "take every n-th frame of a video", type=positive)
    plugin: tuple[str, ...] = plugin_option()

    def check(self) -> "DetectConfig":
        """Validate; returns itself. Raises one `UserError` that names every invalid flag or combination."""
        check_flags(self, DETECT_RULES)
        return self

    def thresholds(self, names: Sequence[str]) -> SelectConfig:
        """The thresholds of the selection. Raises `UserError` for `--classes` that are not among `names`."""
        classes = class_indices(self.classes, names)
        iou = IOU if self.iou_thres is None else self.iou_thres
        return SelectConfig(self.conf_thres, iou, self.max_det, classes and tuple(classes), self.agnostic_nms)

    @property
    def saves_anything(self) -> bool:
        """Whether there will be a folder of results."""
        return not self.nosave or self.save_txt or self.save_crop or self.save_json


def known_format(name: str) -> str:
    """An argparse type: a format of `FORMATS`."""
    if name not in FORMATS:
        raise argparse.ArgumentTypeError(f"{name!r} is not among {', '.join(FORMATS)}; for other runtimes "
                                         f"{OTHER_RUNTIMES}")
    return name


@dataclass(frozen=True)
class ExportConfig(Options):
    """The settings of `export.py`."""

    weights: str = option("", "checkpoint (.pt)", required=True)
    include: tuple[str, ...] = option(("torchscript", "onnx"), f"formats: {', '.join(FORMATS)}", nargs="+",
                                      type=known_format, metavar="FORMAT")
    # None: the size it was trained at
    imgsz: tuple[int, ...] | None = size_option(fitted="the shorter side, or height and width of the file's frame")
    batch_size: int = option(1, "images per call (--dynamic: the one checked)", type=positive)
    dynamic: bool = option(False, "leave batch, height and width free")
    half: bool = option(False, "fp16 inside; inputs and outputs stay float32")
    opset: int | None = option(None, f"ONNX operator set (default {OPSET})", type=number(int, 11, 25))
    simplify: bool = option(False, "ONNX: fold and tidy the graph with onnxslim")
    device: str = device_option("cpu")
    plugin: tuple[str, ...] = plugin_option()

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
