"""The settings of `val.py`."""

import re
from argparse import ArgumentTypeError, BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.evaluation.comparison.bootstrap import RESAMPLES
from engine.evaluation.metrics.protocol import Protocol
from engine.evaluation.protocol_flags import (
    PROTOCOL_RULES,
    NmsOrEvalIou,
    chosen_protocol,
    chosen_protocols,
    eval_iou_option,
    named,
    nms_or_eval_iou,
    protocols_option,
    selection,
    size_bins_option,
)
from engine.inference.view_flags import (
    VIEW_RULES,
    augment_option,
    merge_option,
    overlap_option,
    slice_option,
    with_full_option,
)
from utils.cli import Rule, check_flags, flag_of, fraction, not_empty, number, positive
from utils.errors import UserError
from utils.options import (
    Options,
    device_option,
    max_pixels_option,
    option,
    plugin_option,
    size_option,
    workers_option,
)
from utils.reporting.run_log import NAME_RULE
from utils.select import SelectConfig

SUBMIT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
SUBMIT_RULES = [
    Rule("submit", lambda config, _: config.submit == "" or bool(SUBMIT_NAME.fullmatch(config.submit)),
         "a name for the server's files: letters, digits, - _ and ., at most 64, a letter or digit first"),
    Rule("submit", lambda config, _: len(config.weights) == count_models(config.weights) == 1,
         "one submission is of one model; give one --weights"),
    Rule("submit", lambda config, _: not config.single_cls, "the server wants the classes apart; drop --single-cls"),
    Rule("diagnose", lambda config, _: not config.submit,
         "a submission that goes on has not looked at all images itself; give one of the two flags"),
    Rule("exist_ok", lambda config, _: not config.submit, "--submit goes on in its folder in any case; drop it"),
]
SPLITS, SPEED = ("train", "val", "test"), "speed"
WITH_SPEED = ("weights", "data", "task", "imgsz", "batch_size", "conf_thres", "iou_thres", "max_det", "rect", "device",
              "max_pixels", "half", "trust", "plugin", "debug")
RULES = [
    *not_empty(("data", "project", "name", "submit")), NAME_RULE, *PROTOCOL_RULES, *SUBMIT_RULES,
    Rule("save_conf", lambda config, _: config.save_txt, "adds scores to label rows; add --save-txt"),
    Rule("exist_ok", lambda config, _: count_models(config.weights) < 2,
         "with several --weights one's results would be written over the other's; drop it"),
    *VIEW_RULES,
    Rule("rect", lambda config, _: config.slice is None, "windows have frames of their own; drop it with --slice"),
    Rule("diagnose", lambda config, _: config.slice is None, "works on whole images; drop it, or --slice"),
    Rule("merge", lambda config, _: config.slice is not None or count_models(config.weights) == len(config.weights),
         "an ensemble is of models; give no results files with it"),
    Rule("bootstrap", lambda config, _: len(config.weights) > 1,
         "compares several --weights; give more than one, or drop the flag"),
    *(Rule(flag, lambda config, _: count_models(config.weights) > 0,
           "is about running a model, and results files were found already; drop it") for flag in (
        "imgsz", "batch_size", "conf_thres", "iou_thres", "rect", "device", "workers", "half", "trust", "save_txt",
        "save_conf", "save_json", "save_voc", "save_visdrone", "submit",
        "diagnose", "noplots", "slice", "overlap", "with_full", "augment")),
]


def is_results(weights: str) -> bool:
    """Whether one of `--weights` is a results file, not a model."""
    return weights.lower().endswith(".json")


def count_models(weights: Sequence[str]) -> int:
    """How many of `--weights` are models, not results files."""
    return sum(not is_results(name) for name in weights)


def task(text: str) -> str:
    """An argparse type: YOLOv5's `study` is told how it is done here."""
    if text == "study":
        raise ArgumentTypeError("study is not here: run --task val and --task speed at each --imgsz")
    return text


@dataclass(frozen=True)
class ValConfig(Options):
    """The settings of `val.py`."""

    GROUPS = {"weights": "model and data", "conf_thres": "detections", "slice": "views of an image",
              "protocol": "numbers", "save_txt": "what is written", "device": "machine"}

    weights: tuple[str, ...] = option((), "models: .pt, .onnx, .torchscript; or results .json of any program",
                                      nargs="+", required=True, metavar="FILE")
    data: str = option("", "name in cfg/data or a YAML; default: what the model was trained on", metavar="NAME")
    task: str = option("val", "split: train, val or test; speed: milliseconds by stage, no metrics", type=task,
                       choices=(*SPLITS, SPEED), metavar="SPLIT")
    imgsz: tuple[int, ...] | None = size_option()  # None: the size that the file is bound to or was trained at
    batch_size: int = option(32, "images per batch", type=positive, metavar="N")
    rect: bool | None = option(None, "batches of like aspect with little padding, or squares; default: the model's",
                               action=BooleanOptionalAction)
    single_cls: bool = option(False, "treat all classes as one")
    max_pixels: int = max_pixels_option()
    trust: bool = option(False, "load a .torchscript, which is a program, from elsewhere")
    plugin: tuple[str, ...] = plugin_option()
    conf_thres: float | None = option(None, "lowest score that counts; default: the model's, as a rule 0.001",
                                      type=fraction, metavar="F")
    iou_thres: float | None = option(None, "NMS: overlap that suppresses, as a rule 0.65; 0.25:0.5 is --eval-iou",
                                     "--iou", type=nms_or_eval_iou, action=NmsOrEvalIou, metavar="IOU")
    max_det: int | None = option(None, "most detections per image; default: the protocol's or the model's", metavar="N",
                                 type=positive)
    slice: int | None = slice_option()
    overlap: float | None = overlap_option()
    with_full: bool = with_full_option()
    merge: str | None = merge_option()
    augment: bool = augment_option()
    protocol: tuple[str, ...] = protocols_option()
    size_bins: tuple[float, ...] | None = size_bins_option()
    eval_iou: tuple[float, ...] | None = eval_iou_option()
    bootstrap: int = option(RESAMPLES, f"several --weights: resamples for the intervals of differences; "
                            f"default {RESAMPLES}", type=number(int, 0, 100_000), metavar="N")
    diagnose: bool = option(False, "why objects are missed: diagnosis.html, diagnosis.json and misses.csv")
    save_txt: bool = option(False, "write detections as YOLO txt")
    save_conf: bool = option(False, "with --save-txt: the score as a sixth number")
    save_json: bool = option(False, "write predictions.json in COCO's result form")
    save_voc: bool = option(False, "write results/VOC2012/... and results.tar.gz for the VOC server")
    save_visdrone: bool = option(False, "write visdrone/<image>.txt and visdrone.zip for the VisDrone server")
    submit: str = option("", "write and check the test server's file under this name; goes on if interrupted",
                         metavar="NAME")
    noplots: bool = option(False, "no curves and pictures")
    project: str = option("runs/val", "folder of results", metavar="DIR")
    name: str = option("exp", "sub-folder of results; a number is added where it exists", metavar="NAME")
    exist_ok: bool = option(False, "write into an existing folder")
    device: str = device_option()
    half: bool = option(False, "compute in 16 bits (fp16 on a GPU, bf16 on a CPU)")
    workers: int | None = workers_option()

    def check(self) -> "ValConfig":
        """Validate; returns itself. Raises one `UserError` that names every invalid flag or combination."""
        unread = [flag_of(name) for name in self.given if name not in WITH_SPEED] if self.task == SPEED else []
        if unread:
            raise UserError(f"--task {SPEED} measures time alone and reads no {' '.join(unread)}; drop that, or the "
                            "task", "flag-without-effect")
        check_flags(self, RULES)
        return self

    def judged_by(self) -> Protocol:
        """The protocol that the flags ask for, of several the first."""
        return chosen_protocol(self, self.max_det)

    def all_protocols(self) -> list[Protocol]:
        """The protocols of the table of all `--weights`."""
        return chosen_protocols(self, self.max_det)

    @property
    def wants_table(self) -> bool:
        """Whether one table of all is written: of several models or protocols, and of results files."""
        return len(self.weights) > 1 or count_models(self.weights) == 0 or len(named(self)) > 1

    def thresholds(self, own: SelectConfig) -> SelectConfig:
        """The thresholds of the selection: the flags that were given, otherwise the protocol's or the model's own."""
        flags = {"conf": self.conf_thres, "iou": self.iou_thres, "max_det": self.max_det}
        given = {name: value for name, value in flags.items() if value is not None}
        return replace(selection(own, *self.all_protocols()), **given)
