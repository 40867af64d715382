"""Evaluate a model by the COCO protocol: `python val.py --weights runs/train/exp/weights/best.pt`.

The story: model -> images of a split -> detections in the original frame -> the twelve COCO numbers, table and plots.
`train.py` calls `evaluate` after every epoch, so a number means the same everywhere.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data import Index, load_index
from data.loader import eval_loader
from data.truth import own_file
from models.plugins import add_plugin_flag, load_plugins
from models.runtime import load_runtime
from utils import plots, report
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
from utils.distributed import Group, join
from utils.errors import UserError, run_script
from utils.evaluation import CocoEvaluator, ConfusionMatrix, Metrics, format_table
from utils.files import write_bytes
from utils.reference import by_pycocotools
from utils.saving import UniqueStems
from utils.structures import Batch, Detections, PackedTargets
from utils.truth import fullest

PICTURED_BATCHES = 3
ALONE = Group()

# images (B, 3, H, W) and their targets -> boxes (B, N, 4), scores (B, N, C), losses by name (empty outside training)
Predict = Callable[[Tensor, PackedTargets], tuple[Tensor, Tensor, dict[str, Tensor]]]
Select = Callable[..., list[Detections]]


@dataclass
class Evaluation:
    """What `evaluate` found: metrics, mean losses per image where asked for, milliseconds per image by stage.

    Of several processes all hold the same metrics, confusion, losses and speed; the evaluator of main holds the
    detections of all images, those of the others their own.
    """

    metrics: Metrics
    evaluator: CocoEvaluator
    confusion: ConfusionMatrix
    losses: dict[str, float]
    speed: dict[str, float]
    pictured: list[tuple[Batch, list[Detections]]] = field(default_factory=list)
    max_det: int | None = None

RULES = [
    *not_empty(("data", "project", "name")),
    Rule("save_conf", lambda args, _: args.save_txt, "adds scores to label rows; add --save-txt"),
    Rule("exist_ok", lambda args, _: len(args.weights) == 1,
         "with several --weights one's results would be written over the other's; drop it"),
]


def main(args: argparse.Namespace) -> Evaluation:
    """Evaluate each of `--weights`; prints the tables and returns the last evaluation."""
    load_plugins(args)
    check(args)
    group, device = join(args.device)
    with group.session():
        for weights in args.weights:
            result = evaluate_file(args, weights, group, device)
    return result


def evaluate_file(args: argparse.Namespace, weights: str, group: Group, device: torch.device) -> Evaluation:
    """Evaluate one model; main writes and prints what was found."""
    runtime = load_runtime(weights, args.device if group.alone else device, half=args.half, trust=args.trust)
    data = args.data or runtime.trained.get("data")
    if not data:
        raise UserError(f"{weights} does not say what data it was trained on; name it with --data")
    with group.first():
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
    folder = report.increment_dir(args.project, args.name, args.exist_ok) if group.main else None
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


def without_losses(predict: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Predict:
    """`predict` of images alone in the form that `evaluate` asks for."""
    return lambda images, targets: (*predict(images), {})


def one_class(select: Select) -> Select:
    """`select` for a model of several classes that is judged as if it knew one: what it calls a box does not matter."""
    def merged(boxes: Tensor, scores: Tensor, **thresholds) -> list[Detections]:
        return select(boxes, scores.amax(-1, keepdim=True), **thresholds)

    return merged


def relabelled(select: Select, order: list[int]) -> Select:
    """`select` whose labels are those of the dataset; order: the dataset's label of each label of the model."""
    def mapped(boxes: Tensor, scores: Tensor, **thresholds) -> list[Detections]:
        found = select(boxes, scores, **thresholds)
        return [Detections(d.boxes, d.scores, torch.tensor(order, device=d.labels.device)[d.labels]) for d in found]

    return mapped


@torch.no_grad()
def evaluate(predict: Predict, select: Select, loader, index: Index, *, device: torch.device, conf: float = 0.001,
             iou: float = 0.65, max_det: int = 300, progress: bool = True, group: Group = ALONE) -> Evaluation:
    """Run a model over a loader and score it against `index` by the COCO protocol.

    conf, iou: thresholds of NMS, as the published COCO tables of YOLOv5, YOLOv7, ASSN and ssFPN use them. group: the
    processes that call this together, each with its share of the batches (`eval_loader(..., rank, world)`) and the same
    weights; all get the result of the whole split.
    """
    evaluator = CocoEvaluator(index.truth, len(index.names), index.category_ids, index.names)
    confusion = ConfusionMatrix(len(index.names))
    losses: dict[str, list[Tensor]] = {}
    seconds = dict.fromkeys(("load", "inference", "nms"), 0.0)
    pictured, images_seen, clock = [], 0, time.perf_counter()
    for batch in tqdm(loader, desc="val", disable=not (progress and group.main), dynamic_ncols=True, leave=False):
        on_device = batch.to(device)
        clock = _lap(seconds, "load", clock, device)
        boxes, scores, batch_losses = predict(on_device.images, on_device.targets)
        clock = _lap(seconds, "inference", clock, device)
        found = [d.cpu() for d in select(boxes, scores, conf=conf, iou=iou, max_det=max_det, multi_label=True)]
        clock = _lap(seconds, "nms", clock, device)
        for name, value in batch_losses.items():
            losses.setdefault(name, []).append(value)
        images_seen += len(batch)
        evaluator.update(batch.image_ids, [d.to_original(box) for d, box in zip(found, batch.letterboxes, strict=True)])
        for detections, truth in zip(found, batch.targets.unpack(), strict=True):
            confusion.update(detections, truth.boxes, truth.labels, truth.ignore)
        if group.main and len(pictured) < PICTURED_BATCHES:
            pictured.append((batch, found))
        clock = time.perf_counter()
    own = Part(evaluator.state(), confusion.matrix, {k: torch.stack(v).tolist() for k, v in losses.items()}, seconds,
               images_seen)
    parts = group.gather(own)
    metrics, confusion.matrix, means, speed = group.broadcast(merge(parts, evaluator) if parts else None)
    return Evaluation(metrics, evaluator, confusion, means, speed, pictured, max_det)


@dataclass
class Part:
    """What one process saw of a split. found: `CocoEvaluator.state`; losses: of each batch, in order."""

    found: dict[str, np.ndarray]
    matrix: np.ndarray
    losses: dict[str, list[float]]
    seconds: dict[str, float]
    images: int


def merge(parts: list[Part],
          evaluator: CocoEvaluator) -> tuple[Metrics, np.ndarray, dict[str, float], dict[str, float]]:
    """Metrics, confusion, mean losses and milliseconds per image of all processes, to the last bit those of one.

    parts: by rank, of which process k saw every `len(parts)`-th batch from batch k on, as `eval_loader` deals them out;
    the first is already in `evaluator`. This runs on main alone, and the others get its result: it takes the processor
    for seconds on a large split, and they would only do the same work beside it.
    """
    for part in parts[1:]:
        evaluator.merge(part.found)
    images = max(sum(part.images for part in parts), 1)
    names = next((part.losses for part in parts if part.losses), {})
    in_order = {name: [value for round_ in zip_longest(*(part.losses.get(name, ()) for part in parts))
                       for value in round_ if value is not None] for name in names}
    return (evaluator.compute(), sum(part.matrix for part in parts),
            {name: sum(values) / images for name, values in in_order.items()},
            {stage: 1e3 * sum(part.seconds[stage] for part in parts) / images for stage in parts[0].seconds})


def _lap(seconds: dict[str, float], stage: str, since: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a GPU answers before it has worked; a stage's time needs the work done
    now = time.perf_counter()
    seconds[stage] += now - since
    return now


def write_results(result: Evaluation, index: Index, folder: Path, picture: bool = True) -> str:
    """The table, and the curves and pictures that YOLO users expect, into `folder`; returns the table.

    pycocotools itself computes the twelve numbers once more; the table says on what, and where they differ.
    """
    told = verdict(result.evaluator, result.metrics, result.max_det)
    table = "\n".join([format_table(result.metrics, index.names, per_class=True), *told])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.txt").write_text(table + "\n", encoding="utf-8")
    if picture:
        draw_results(result, index, folder)
    return table


def verdict(evaluator: CocoEvaluator, metrics: Metrics, max_det: int | None = None) -> list[str]:
    """What the numbers go by and what pycocotools says. Confirmed are only those that it gives on the user's own file
    with the detections that `save_json` writes. max_det: the limit of detections per image, which is told where it is
    too low."""
    truth, ours, said = evaluator.truth, metrics.numbers(), [f"note: {note}" for note in evaluator.truth.notes]
    most, image, _ = fullest(truth, by_class=False)
    if max_det is not None and most > max_det:
        said.append(f"note: image {truth.image_ids[image]} has {most} objects and at most {max_det} are looked for in "
                    f"one: val.py --max-det {most} or more finds the others too")
    if not len(truth.image):
        return [*said, f"there is nothing to judge by: the {truth.what} hold no object"]
    if truth.file:
        try:
            own = by_pycocotools(own_file(truth.file), evaluator.results())
        except ValueError as error:
            said.append(f"pycocotools fails on {truth.file} as it stands ({error})")
        else:
            wrong = differences(own, ours)
            if not wrong:
                return [*said, f"the twelve numbers are confirmed by pycocotools on {truth.file}"]
            said.append(f"pycocotools on {truth.file} as it stands gives other numbers: {wrong}")
        said += [f"  the file has {what}" for what in truth.departures]
    wrong = differences(evaluator.reference(), ours)
    what = f"the {truth.what}" + ", read as they are meant" * bool(truth.file)
    return [*said, f"pycocotools differs: {wrong}" if wrong else f"pycocotools gives the same twelve numbers on {what}"]


def differences(numbers: dict[str, float], ours: dict[str, float]) -> str:
    """Those of `numbers` that are not ours, beside ours."""
    return ", ".join(f"{k} {v:.4f} (here {ours[k]:.4f})" for k, v in numbers.items() if abs(v - ours[k]) > 1e-9)


def draw_results(result: Evaluation, index: Index, folder: Path) -> None:
    """PR, F1, P and R curves, confusion matrix, and the first batches with truth beside prediction."""
    plots.plot_curves(result.metrics, index.names, folder)
    plots.plot_confusion_matrix(result.confusion.matrix, index.names, folder / "confusion_matrix.png")
    for place, (batch, found) in enumerate(result.pictured):
        path = folder / f"val_batch{place}.jpg"
        plots.plot_comparison(batch.images, batch.targets.unpack(), found, path, index.names)


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
