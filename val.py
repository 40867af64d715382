"""Evaluate a model by the COCO protocol: `python val.py --weights runs/train/exp/weights/best.pt`.

The story: model -> images of a split -> detections in the original frame -> the twelve COCO numbers, table and plots.
`train.py` calls `evaluate` after every epoch, so a number means the same everywhere.
"""

import argparse
import json
from pathlib import Path

import torch

from data import Index, load_index
from data.loading.build import eval_loader
from engine.evaluation.evaluate import Evaluation, evaluate, one_class, relabelled, without_losses
from engine.evaluation.results import write_results
from engine.inference.runtime import load_runtime
from engine.inference.writer import UniqueStems
from models.plugins import add_plugin_flag, load_plugins
from utils.class_names import match_classes
from utils.cli import (
    Parser,
    Rule,
    add_device,
    add_max_pixels,
    add_size,
    add_workers,
    check_flags,
    fraction,
    not_empty,
    positive,
    refused,
    worker_count,
)
from utils.distributed.group import Group
from utils.distributed.launch import join
from utils.errors import UserError, run_script
from utils.files import write_bytes
from utils.reporting import run_log as report

RULES = [
    *not_empty(("data", "project", "name")),
    Rule("save_conf", lambda args, _: args.save_txt, "adds scores to label rows; add --save-txt"),
    Rule("exist_ok", lambda args, _: len(args.weights) == 1,
         "with several --weights one's results would be written over the other's; drop it"),
]


def main(args: argparse.Namespace) -> Evaluation:
    """Evaluate each of `--weights`; prints the tables and returns the last evaluation."""
    load_plugins(args.plugin)
    check(args)
    group, device = join(args.device)
    with group.session():
        for weights in args.weights:
            result = evaluate_file(args, weights, group, device)
    return result


def evaluate_file(args: argparse.Namespace, weights: str, group: Group, device: torch.device) -> Evaluation:
    """Evaluate one model; main writes and prints what was found."""
    runtime = load_runtime(weights, args.device if group.is_single else device, half=args.half, trust=args.trust)
    data = args.data or runtime.trained.get("data")
    if not data:
        raise UserError(f"{weights} does not say what data it was trained on; name it with --data")
    with group.local_rank0_first():
        index = load_index(data, args.task, single_cls=args.single_cls, max_pixels=args.max_pixels)
    print(index.report.format())
    select = runtime.select
    if args.single_cls and len(runtime.names) > 1:
        select = one_class(select)
    elif not (args.single_cls and len(index.names) == 1):
        order, said = match_classes(runtime.names, index.names, str(weights), str(data))
        if said:
            print(said)
        select = relabelled(select, order) if order else select
    loader = make_loader(args, runtime, index, group)
    folder = report.increment_dir(args.project, args.name, args.exist_ok) if group.is_main else None
    result = evaluate(without_losses(runtime.predict), select, loader, index, device=runtime.device,
                      conf=args.conf_thres, iou=args.iou_thres, max_det=args.max_det, group=group)
    damaged = [path for part in group.gather(loader.damaged) or [] for path in part]
    if folder:
        publish(args, result, index, folder, damaged)
    return result


def publish(args: argparse.Namespace, result: Evaluation, index: Index, folder: Path, damaged: list[str]) -> None:
    """Write and print what was found."""
    table = write_results(result, index, folder, picture=not args.noplots)
    if args.save_json:
        result.evaluator.save_json(folder / "predictions.json")
        truth = result.evaluator.truth
        if truth.file is None and len(truth.image):  # there is no file of the user's to hold them against
            write_bytes(folder / "ground_truth.json", json.dumps(truth.to_coco()).encode())
    if args.save_txt:
        save_txt(result.evaluator.results(by_record=True), index, folder / "labels", args.save_conf)
    if damaged:
        print(f"{len(damaged)} images could not be decoded, the first: {damaged[0]}")
    print(table)
    print("speed: " + ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in result.speed.items()) + " per image")
    print(f"results in {folder}")


def check(args: argparse.Namespace) -> None:
    """Raises `UserError` for flags that make no sense, alone or together."""
    check_flags(args, RULES)
    report.check_name(args.name)


def make_loader(args: argparse.Namespace, runtime, index: Index, group: Group):
    """This process's images of the split at the size that the runtime takes."""
    if args.rect and runtime.fixed_size:
        raise UserError(f"--rect: {runtime.path} takes one size only; export it with --dynamic")
    height, width = runtime.choose_size(args.imgsz)
    workers = worker_count(args.workers, runtime.device.type)
    return eval_loader(index, height if height == width else (height, width), args.batch_size, workers=workers,
                       rect=args.rect, stride=max(runtime.strides), pin_memory=runtime.device.type == "cuda",
                       rank=group.rank, world=group.world)


def save_txt(rows: list[dict], index: Index, folder: Path, with_conf: bool) -> None:
    """Detections as YOLO txt, one file an image: class, centre, size as fractions of the image [, confidence]."""
    folder.mkdir(parents=True, exist_ok=True)
    label_of = {category: label for label, category in enumerate(index.category_ids)}
    lines: dict[int, list[str]] = {record.image_id: [] for record in index.records}
    stem_of = UniqueStems()
    sizes = {record.image_id: record for record in index.records}
    for row in rows:
        record, (left, top, width, height) = sizes[row["image_id"]], row["bbox"]
        numbers = [(left + width / 2) / record.width, (top + height / 2) / record.height,
                   width / record.width, height / record.height] + ([row["score"]] if with_conf else [])
        text = " ".join([str(label_of[row["category_id"]]), *(f"{n:.6g}" for n in numbers)])
        lines[row["image_id"]].append(text + "\n")
    for image_id, texts in lines.items():
        write_bytes(folder / f"{stem_of(sizes[image_id].path)}.txt", "".join(texts).encode())


def make_parser() -> argparse.ArgumentParser:
    """The words of YOLO's val.py and test.py."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", required=True, help=".pt, .onnx or .torchscript, one or several")
    parser.add_argument("--data", default="", help="name in cfg/data or a YAML; default: what the model was trained on")
    parser.add_argument("--task", default="val", choices=("train", "val", "test"), help="the split to evaluate")
    add_size(parser, default=None)
    parser.add_argument("--batch-size", type=positive, default=32, help="images per batch")
    parser.add_argument("--conf-thres", type=fraction, default=0.001, help="lowest score that counts")
    parser.add_argument("--iou-thres", type=fraction, default=0.65, help="NMS: overlap that suppresses")
    parser.add_argument("--max-det", type=positive, default=300,
                        help="most detections per image; give more where images hold more objects")
    parser.add_argument("--rect", action="store_true", help="batches of like aspect with little padding")
    add_device(parser)
    add_workers(parser)
    add_max_pixels(parser)
    parser.add_argument("--half", action="store_true", help="compute in 16 bits (fp16 on a GPU, bf16 on a CPU)")
    parser.add_argument("--trust", action="store_true", help="load a .torchscript, which is a program, from elsewhere")
    parser.add_argument("--single-cls", action="store_true", help="treat all classes as one")
    parser.add_argument("--save-txt", action="store_true", help="write detections as YOLO txt")
    parser.add_argument("--save-conf", action="store_true", help="with --save-txt: the score as a sixth number")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json in COCO's result form")
    parser.add_argument("--noplots", action="store_true", help="no curves and pictures")
    parser.add_argument("--project", default="runs/val", help="folder of results")
    parser.add_argument("--name", default="exp", help="sub-folder of results")
    parser.add_argument("--exist-ok", action="store_true", help="write into an existing folder")
    add_plugin_flag(parser)
    refused(parser, {"--augment": "test-time augmentation is not here", "--save-hybrid": "use --save-txt",
                     "--verbose": "the per-class table is always printed", "--dnn": "give an .onnx file as --weights"})
    return parser


if __name__ == "__main__":
    run_script(main, make_parser())
