"""The words of `train.py`, and where each setting comes from: flag, else recipe file, else YOLO's default."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from utils.checkpoint import load_checkpoint
from utils.cli import add_device, add_size, add_workers, fraction, number, positive, refused
from utils.errors import UserError
from utils.optim import OPTIMIZERS
from utils.recipe import Recipe

DEFAULTS = {"epochs": 100, "imgsz": 640, "batch_size": 16, "val_interval": 1}
OF_THE_MACHINE = ("plugin", "device", "workers", "cache", "resume", "debug")  # these may differ when a run is resumed


def make_parser(description: str) -> argparse.ArgumentParser:
    """The words of YOLOv5's and YOLOv7's train.py."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--weights", default="", help="checkpoint to start from; '' trains from scratch")
    add("--cfg", default="", help="model by name (yolov8n-assn, yolov7, ...) or a YAML; default yolov8n-assn")
    add("--neck", choices=("pan", "ssfpn", "assn"), help="put this neck on the model of --cfg")
    add("--data", default="", help="name in cfg/data or a YAML; default: the built-in shapes with the demo recipe")
    add("--hyp", default="", help="name in cfg/train or a YAML that changes the recipe of the model's family")
    add("--epochs", type=positive, help="default 100")
    add("--batch-size", type=positive, help="images per step; default 16")
    add_size(parser, default=None, meaning="train, validation")
    add("--box-loss", choices=("iou", "giou", "diou", "ciou", "sca"), help="box similarity of the loss; default ciou")
    add("--assign", choices=("anchor", "ota"), help="anchor heads: who learns what; default as published")
    add("--optimizer", choices=OPTIMIZERS, help="default: the recipe's")
    add("--cos-lr", action="store_true", help="cosine learning-rate schedule")
    add("--linear-lr", action="store_true", help="linear learning-rate schedule")
    add("--label-smoothing", type=fraction, help="epsilon of anchor heads' class targets")
    add("--close-mosaic", type=number(int, 0), help="last epochs without mosaic and mixup")
    add("--freeze", nargs="+", type=number(int, 0), default=[0], help="rows to freeze: 10 = rows 0 to 9, or a list")
    add("--amp", default="auto", choices=("auto", "bf16", "fp16", "fp32"), help="precision of the forward pass")
    add("--cache", nargs="?", const="ram", choices=("ram",), help="keep decoded images in memory")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--strict", action="store_true", help="stop at labels that would otherwise be repaired or left out")
    add("--seed", type=number(int, 0), default=0, help="same seed, same machine: same result")
    add("--resume", nargs="?", const=True, default=False, help="continue the newest run, or the checkpoint named here")
    add("--patience", type=number(int, 0), default=100, help="epochs without a better result to stop after; 0 = never")
    add("--save-period", type=number(int, -1), default=-1, help="also keep a checkpoint every so many epochs")
    add("--val-interval", type=positive, help="epochs between two validations; default 1")
    add("--noval", "--notest", action="store_true", help="validate after the last epoch only")
    add("--nosave", action="store_true", help="save after the last epoch only")
    add("--noplots", action="store_true", help="no pictures and curves")
    add_device(parser)
    add_workers(parser)
    add("--project", default="runs/train", help="folder of results")
    add("--name", default="exp", help="sub-folder of results")
    add("--exist-ok", action="store_true", help="write into an existing folder")
    refused(parser, {
        "--adam": "use --optimizer Adam", "--cache-images": "use --cache ram", "--evolve": "not here yet",
        "--image-weights": "not here yet", "--multi-scale": "not here yet", "--quad": "raise --batch-size instead",
        "--rect": "training uses square mosaics; val.py has --rect", "--noautoanchor": "anchors are never changed",
        "--sync-bn": "one process trains on one device", "--local-rank": "one process trains on one device",
        "--local_rank": "one process trains on one device", "--bucket": "nothing is uploaded",
        "--upload_dataset": "nothing is uploaded", "--entity": "TensorBoard is always written"})
    return parser


def find_resume(resume: str | bool, project: str) -> Path:
    """The checkpoint to continue: the one named, the one in the folder named, or under `project` the newest run's
    that has not ended."""
    if isinstance(resume, str):
        path = Path(resume)
        return path / "weights" / "last.pt" if path.is_dir() else path
    found = sorted(Path(project).glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in found:
        if "train" in load_checkpoint(path):
            return path
    what = "every run there has ended" if found else "there is no */weights/last.pt"
    raise UserError(f"--resume: nothing to resume under {project}, {what}; name one: --resume path/to/last.pt")


def settings_of(checkpoint: dict[str, Any], args: argparse.Namespace, path: Path) -> argparse.Namespace:
    """The settings of the run that wrote `checkpoint`; only what belongs to the machine is taken from `args`."""
    if "train" not in checkpoint:
        last = path.with_name("last.pt")
        if path.name != last.name and last.is_file():
            raise UserError(f"{path}: holds weights alone; runs are resumed from last.pt: --resume {last}")
        raise UserError(f"{path}: this run has ended, there is nothing to resume; to train on: --weights {path}")
    stored = checkpoint["train"]["args"]
    defaults = vars(make_parser("").parse_args([]))
    free = (*OF_THE_MACHINE, "project", "exist_ok")
    other = [word for word, value in vars(args).items() if word in stored and word not in free
             and value not in (defaults.get(word, value), stored[word])]
    if other:
        flags = " ".join(f"--{word.replace('_', '-')}" for word in other)
        raise UserError(f"--resume: {flags} cannot change, a run goes on as {path} has it; drop it, or start a new run "
                        f"with --weights {path}")
    return argparse.Namespace(**{**vars(args), **stored, **{k: getattr(args, k) for k in OF_THE_MACHINE if k in args}})


def settle(args: argparse.Namespace, recipe: Recipe) -> None:
    """Give every flag its value, in place: flag, else recipe, else default; what overrides the recipe goes into it."""
    for word, default in DEFAULTS.items():
        if getattr(args, word) is None:
            value = recipe.run.get(word, default)
            setattr(args, word, [value] if word == "imgsz" else value)
    for word in ("optimizer", "label_smoothing", "close_mosaic"):
        if getattr(args, word) is None:
            setattr(args, word, getattr(recipe, word))
        setattr(recipe, word, getattr(args, word))
    if args.nosave and args.save_period > 0:
        raise UserError("--nosave and --save-period: choose one")
    if args.cos_lr or args.linear_lr:
        if args.cos_lr and args.linear_lr:
            raise UserError("--cos-lr and --linear-lr: choose one")
        recipe.schedule = "cosine" if args.cos_lr else "linear"


def save_args(args: argparse.Namespace, recipe: Recipe, path: Path) -> None:
    """Write the settled settings and the recipe, so that a run can be read and repeated."""
    content = {k: v for k, v in sorted(vars(args).items()) if k != "debug"}
    path.write_text(yaml.safe_dump({**content, "recipe": vars(recipe)}, sort_keys=False), encoding="utf-8")
