"""The settings of `detect.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.inference.sources.open import LIST_SUFFIXES
from engine.inference.sources.reader import PATIENCE, Patience
from engine.inference.sources.streams import is_stream
from engine.inference.tracking import LOW_SCORE, METHODS
from engine.inference.view_flags import (
    VIEW_RULES,
    augment_option,
    merge_option,
    overlap_option,
    slice_option,
    with_full_option,
)
from utils.cli import Rule, check_flags, class_indices, fraction, not_empty, number, positive
from utils.options import Options, device_option, max_pixels_option, option, plugin_option, size_option
from utils.reporting.draw import Style
from utils.reporting.run_log import NAME_RULE
from utils.select import SelectConfig

IOU = 0.45
NO_PICTURES = "no pictures are drawn with --nosave; drop one of the two, or add --view-img"
DETECT_RULES = [
    *not_empty(("source", "project", "name")), NAME_RULE,
    Rule("weights", lambda config, _: all(file.strip() for file in config.weights),
         "a name is empty; is a variable unset? give a value, or drop it"),
    Rule("save_conf", lambda config, _: config.save_txt, "adds scores to label rows; add --save-txt"),
    *(Rule(flag, lambda config, _: not config.nosave or config.view_img, NO_PICTURES)
      for flag in ("line_thickness", "hide_labels", "hide_conf")),
    Rule("data", lambda config, _: config.save_json, "names images and classes in predictions.json; add --save-json"),
    Rule("reconnect", lambda config, _: is_stream(config.source) or config.source.endswith(LIST_SUFFIXES),
         "is about cameras and streams, which --source is none of"),
    Rule("hide_conf", lambda config, _: not config.hide_labels, "--hide-labels hides both class and score; drop one"),
    Rule("explain", lambda config, _: len(config.weights) < 2 and config.slice is None,
         "shows what one model sees of whole images; drop it, or --slice and further --weights"),
    *VIEW_RULES,
]


@dataclass(frozen=True)
class DetectConfig(Options):
    """The settings of `detect.py`."""

    GROUPS = {"weights": "model and source", "conf_thres": "detections", "slice": "views of an image",
              "nosave": "what is written", "line_thickness": "how it is drawn", "device": "machine"}

    weights: tuple[str, ...] = option((), "checkpoint (.pt), .onnx or .torchscript; several are merged", nargs="+",
                                      required=True, metavar="FILE")
    source: str = option("", "picture, video, folder, glob, .txt or .streams list, camera (0), URL of a stream",
                         required=True, metavar="SOURCE")
    imgsz: tuple[int, ...] | None = size_option()  # None: the size that the file is bound to or was trained at
    vid_stride: int = option(1, "take every n-th frame of a video or stream", type=positive, metavar="N")
    reconnect: float = option(PATIENCE.reconnect, "seconds until a broken stream is given up, 0: at once; "
                              f"default {PATIENCE.reconnect:g}", type=number(float, 0, 1e6), metavar="S")
    max_pixels: int = max_pixels_option()
    trust: bool = option(False, "load a .torchscript, which is a program, from elsewhere")
    plugin: tuple[str, ...] = plugin_option()
    conf_thres: float = option(0.25, "least score of a detection", type=fraction, metavar="F")
    iou_thres: float | None = option(None, f"NMS: greatest overlap of two boxes (default {IOU})", type=fraction,
                                     metavar="F")
    max_det: int = option(1000, "most detections per image", type=positive, metavar="N")
    classes: tuple[str, ...] | None = option(None, "keep these only, by index or name", nargs="+", metavar="CLASS")
    agnostic_nms: bool = option(False, "NMS across classes")
    track: str | None = option(None, f"follow objects through a video, with ids: {' or '.join(METHODS)}", nargs="?",
                               const=next(iter(METHODS)), choices=tuple(METHODS), metavar="METHOD")
    slice: int | None = slice_option()
    overlap: float | None = overlap_option()
    with_full: bool = with_full_option()
    merge: str | None = merge_option()
    augment: bool = augment_option()
    nosave: bool = option(False, "write no pictures and videos")
    save_txt: bool = option(False, "labels/<name>.txt in YOLO form, one for each image")
    save_conf: bool = option(False, "add the score to the rows of --save-txt")
    save_crop: bool = option(False, "crops/<class>/<name>_<n>.jpg")
    save_json: bool = option(False, "predictions.json, rows like COCO results")
    explain: bool = option(False, "explain/<name>_<map>.jpg: gate and levels of a scale-sequence neck, attention")
    data: str | None = option(None, "data set whose ids predictions.json has; default: that of the training",
                              metavar="NAME")
    save_csv: bool = option(False, "predictions.csv: image, frame, class, name, confidence, corners in pixels, id")
    view_img: bool = option(False, "show what is drawn in a window; q ends")
    project: str = option("runs/detect", "results go to <project>/<name>", metavar="DIR")
    name: str = option("exp", "a number is added where the folder exists", metavar="NAME")
    exist_ok: bool = option(False, "write into <project>/<name> even where it exists")
    line_thickness: int | None = option(None, "of the boxes drawn (default: by picture and box)",
                                        type=number(int, 1, 100), metavar="PX")
    hide_labels: bool = option(False, "draw boxes without class and score")
    hide_conf: bool = option(False, "draw the class without the score")
    device: str = device_option()
    half: bool = option(False, "compute in 16 bits (fp16 on a GPU, bf16 on a CPU)")

    def check(self) -> "DetectConfig":
        """Validate; returns itself. Raises one `UserError` that names every invalid flag or combination."""
        check_flags(self, DETECT_RULES)
        return self

    def thresholds(self, names: Sequence[str]) -> SelectConfig:
        """The thresholds of the selection. Raises `UserError` for `--classes` that are not among `names`."""
        classes = class_indices(self.classes, names)
        iou = IOU if self.iou_thres is None else self.iou_thres
        least = min(self.conf_thres, LOW_SCORE) if self.track else self.conf_thres
        return SelectConfig(least, iou, self.max_det, classes and tuple(classes), self.agnostic_nms)

    @property
    def style(self) -> Style:
        """How detections are drawn."""
        return Style(self.line_thickness, not self.hide_labels, not self.hide_conf)

    @property
    def patience(self) -> Patience:
        """With streams that break."""
        return replace(PATIENCE, reconnect=self.reconnect)

    @property
    def saves_anything(self) -> bool:
        """Whether there will be a folder of results."""
        return (not self.nosave or self.save_txt or self.save_crop or self.save_json or self.save_csv
                or self.explain)
