"""Find objects in pictures and videos with a trained detector.

    python detect.py --weights runs/train/exp/weights/best.pt --source pictures/ --save-txt

--weights is a checkpoint (.pt) or a file made by export.py (.onnx, .torchscript). Pictures with boxes drawn in, label
rows, crops and JSON go to runs/detect/exp, exp2, ...
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data.images.letterbox import letterbox
from engine.inference.runtime import Runtime, load_runtime
from engine.inference.sources import Frame, open_source
from engine.inference.writer import Results, SaveOptions
from models.plugins import add_plugin_flag, load_plugins
from utils.cli import (
    Parser,
    Rule,
    add_device,
    add_max_pixels,
    add_size,
    check_flags,
    class_indices,
    fraction,
    not_empty,
    number,
    positive,
    refused,
)
from utils.errors import UserError, printable, run_script
from utils.reporting.run_log import check_name
from utils.structures import Detections

DROP = "drop the flag"
REFUSED = {
    "--view-img": "results are files, open those in the results folder", "--save-csv": "use --save-json or --save-txt",
    "--augment": f"there is no test-time augmentation, {DROP}", "--update": f"checkpoints stay as they are, {DROP}",
    "--visualize": f"feature maps are not drawn, {DROP}", "--dnn": f"ONNX files run with onnxruntime, {DROP}",
    "--no-trace": f"nothing is traced here, {DROP}", "--data": f"class names come from the weights, {DROP}",
}

PICTURES = "no pictures are drawn with --nosave; drop one of the two"
RULES = [
    *not_empty(("weights", "source", "project", "name")),
    Rule("save_conf", lambda args, _: args.save_txt, "adds scores to label rows; add --save-txt"),
    *(Rule(word, lambda args, _: not args.nosave, PICTURES) for word in ("line_thickness", "hide_labels", "hide_conf")),
    Rule("hide_conf", lambda args, _: not args.hide_labels, "--hide-labels hides both class and score; drop one"),
]


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="checkpoint (.pt) or exported file (.onnx, .torchscript)")
    parser.add_argument("--source", required=True, help="picture, video, folder, glob, or .txt list of paths")
    add_size(parser, default=None)  # None: the size that the file is bound to or was trained at
    parser.add_argument("--conf-thres", type=fraction, default=0.25, help="least score of a detection")
    parser.add_argument("--iou-thres", type=fraction, default=0.45, help="NMS: greatest overlap of two boxes")
    parser.add_argument("--max-det", type=positive, default=1000, help="most detections per image")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="keep these only, by index or name")
    parser.add_argument("--agnostic-nms", action="store_true", help="NMS across classes")
    add_device(parser)
    add_max_pixels(parser)
    parser.add_argument("--half", action="store_true", help="compute in 16 bits (fp16 on a GPU, bf16 on a CPU)")
    parser.add_argument("--trust", action="store_true", help="load a .torchscript, which is a program, from elsewhere")
    parser.add_argument("--nosave", action="store_true", help="write no pictures and videos")
    parser.add_argument("--save-txt", action="store_true", help="labels/<name>.txt in YOLO form, one for each image")
    parser.add_argument("--save-conf", action="store_true", help="add the score to the rows of --save-txt")
    parser.add_argument("--save-crop", action="store_true", help="crops/<class>/<name>_<n>.jpg")
    parser.add_argument("--save-json", action="store_true", help="predictions.json, rows like COCO results")
    parser.add_argument("--project", default="runs/detect", help="results go to <project>/<name>")
    parser.add_argument("--name", default="exp", help="a number is added where the folder exists")
    parser.add_argument("--exist-ok", action="store_true", help="write into <project>/<name> even where it exists")
    parser.add_argument("--line-thickness", type=number(int, 1, 100), default=3, metavar="PX",
                        help="of the boxes drawn")
    parser.add_argument("--hide-labels", action="store_true", help="draw boxes without class and score")
    parser.add_argument("--hide-conf", action="store_true", help="draw the class without the score")
    parser.add_argument("--vid-stride", type=positive, default=1, help="take every n-th frame of a video")
    add_plugin_flag(parser)
    refused(parser, REFUSED)
    return parser


def main(args: argparse.Namespace) -> Path | None:
    """Detect in everything that `--source` means; returns the results folder, None where nothing was to be saved."""
    check_flags(args, RULES)
    check_name(args.name)
    load_plugins(args.plugin)
    runtime = load_runtime(args.weights, args.device, args.half, args.trust)
    classes = class_indices(args.classes, runtime.names)
    size = runtime.choose_size(args.imgsz)
    frames = open_source(args.source, vid_stride=args.vid_stride, max_pixels=args.max_pixels)
    results = Results(save_options(args), runtime.names, args.project, args.name, args.exist_ok)
    clock = Clock(runtime.device)
    try:
        for frame in frames:
            images, placed = prepare(frame.image, size, runtime)
            clock.lap("pre-process")
            boxes, scores = runtime.predict(images)
            clock.lap("inference")
            found = runtime.select(boxes, scores, conf=args.conf_thres, iou=args.iou_thres, max_det=args.max_det,
                                   classes=classes, agnostic=args.agnostic_nms)[0].to_original(placed).cpu()
            clock.lap("NMS")
            if not bool(found.boxes.isfinite().all()):
                raise UserError(f"{args.weights}: finds boxes that are not finite in {frame.path}; its weights have "
                                "diverged or are damaged, take other ones")
            height, width = images.shape[2:]
            print(f"{place(frame)}: {height}x{width} {printable(count(found, runtime.names))}, {clock.spent:.1f} ms")
            results.add(frame.path, frame.image, found, frame.index if frame.kind == "video" else None, frame.fps)
            clock.frames += 1
            clock.start()
        results.close()
    finally:
        results.drop_unfinished()
    for reason in frames.skipped:
        print(f"skipped {printable(reason)}")
    skipped = f", {len(frames.skipped)} skipped" if frames.skipped else ""
    print(f"{clock.frames} image{'s' * (clock.frames > 1)}{skipped}; speed per image at {size[0]}x{size[1]}: {clock}")
    print(f"results: {results.told()}")
    return results.folder


def save_options(args: argparse.Namespace) -> SaveOptions:
    return SaveOptions(not args.nosave, args.save_txt, args.save_conf, args.save_crop, args.save_json,
                       args.line_thickness, args.hide_labels, args.hide_conf, args.vid_stride)


def prepare(image: np.ndarray, size: tuple[int, int], runtime: Runtime) -> tuple[Tensor, Any]:
    """BGR (H, W, 3) -> RGB (1, 3, h, w) uint8 and its letterbox; as little padding as the file allows."""
    placed, transform = letterbox(image, size, auto=runtime.fixed_size is None, stride=max(runtime.strides),
                                  antialias=True)
    return torch.from_numpy(cv2.cvtColor(placed, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None], transform


def place(frame: Frame) -> str:
    if frame.kind == "video":
        return f"video {printable(frame.path)} frame {frame.index + 1}/{frame.frames or '?'}"
    return f"image {printable(frame.path)}"


def count(found: Detections, names: list[str]) -> str:
    """`2 persons, 1 dog`, in the order of the classes."""
    if not len(found):
        return "no detections"
    numbers = sorted(Counter(found.labels.tolist()).items())
    return ", ".join(f"{number} {names[label]}{'s' * (number > 1)}" for label, number in numbers)


class Clock:
    """Milliseconds per image and stage; each lap waits for the GPU, or its work would be booked on the next stage."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.frames, self.totals = device, 0, Counter()
        self.start()

    def start(self) -> None:
        self.spent, self.at = 0.0, time.perf_counter()

    def lap(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.totals[stage] += (now - self.at) * 1000
        self.spent, self.at = self.spent + (now - self.at) * 1000, now

    def __str__(self) -> str:
        return ", ".join(f"{total / self.frames:.1f} ms {stage}" for stage, total in self.totals.items())


if __name__ == "__main__":
    run_script(main, build_parser())
