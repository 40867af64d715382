"""The words of `train.py`, and where each setting comes from: flag, else recipe file, else YOLO's default."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from engine.optim.optimizer import OPTIMIZERS
from engine.training.recipe import Recipe
from models.boxes.similarity import KINDS
from models.catalogue import NO_NECK
from models.losses.anchor_head import ASSIGNERS
from models.registry import known_necks
from utils.cli import (
    LONGEST_SIDE,
    Parser,
    Rule,
    add_device,
    add_max_pixels,
    add_size,
    add_workers,
    check_flags,
    flag_of,
    fraction,
    given,
    not_empty,
    number,
    positive,
    refused,
)
from utils.errors import UserError, shown

DEFAULTS = {"epochs": 100, "imgsz": 640, "batch_size": 16, "val_interval": 1}
# when a run is resumed, these are asked for anew
OF_THE_MACHINE = ("plugin", "device", "workers", "resume", "allow_data_change", "debug")
# these go on, or are changed
CHANGEABLE = ("data", "epochs", "patience", "amp", "cache", "max_pixels", "save_every_minutes", "save_period",
              "skip_bad_batches", "noplots", "logger", "compile")
BEST_BY = ("fitness", "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "F1")
LOGGERS = ("wandb", "mlflow", "clearml")


def make_parser(description: str) -> argparse.ArgumentParser:
    """The words of YOLOv5's and YOLOv7's train.py, and ours."""
    parser = Parser(description=description)
    for add_words in (_add_model, _add_learning, _add_data, _add_course, _add_results):
        add_words(parser)
    refused(parser, {
        "--adam": "use --optimizer Adam", "--cache-images": "use --cache ram", "--quad": "raise --batch-size instead",
        "--local-rank": "torchrun tells each process its rank", "--local_rank": "torchrun tells each process its rank",
        "--bucket": "nothing is uploaded", "--upload_dataset": "nothing is uploaded",
        "--entity": "set WANDB_ENTITY and use --logger wandb"})
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", default="", help="checkpoint to start from; '' trains from scratch")
    add("--cfg", default="", help="model by name (yolov8n-assn, yolov7, ...) or a YAML; default yolov8n-assn")
    add("--neck", help=f"put this neck on the model of --cfg: {', '.join([NO_NECK, *known_necks()])}, or a plugin's")
    add("--data", default="", help="name in cfg/data or a YAML; default: the built-in shapes with the demo recipe")
    add("--hyp", default="", help="name in cfg/train or a YAML that changes the recipe of the model's family")
    add("--epochs", type=positive, help="default 100")
    add("--batch-size", type=batch_size, help="images per step, over all processes; -1: what fits; default 16")
    add_size(parser, default=None, meaning="train, validation")
    add("--box-loss", help=f"box similarity of the loss: {', '.join(KINDS)}, or a plugin's; default ciou")
    add("--assign", help=f"assignment of anchor heads: {', '.join(ASSIGNERS)}; default as published")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--optimizer", choices=OPTIMIZERS, help="default: the recipe's")
    add("--cos-lr", action="store_true", help="cosine learning-rate schedule")
    add("--linear-lr", action="store_true", help="linear learning-rate schedule")
    add("--label-smoothing", type=fraction, help="epsilon of anchor heads' class targets")
    add("--close-mosaic", type=number(int, 0), help="last epochs without mosaic and mixup")
    add("--freeze", nargs="+", type=number(int, 0), default=[0], help="rows to freeze: 10 = rows 0 to 9, or a list")
    add("--clip-grad", type=number(float, 0, 1e9), help="largest norm of all gradients; 0 = off; default: the recipe's")
    add("--amp", default="auto", choices=("auto", "bf16", "fp16", "fp32"), help="precision of the forward pass")
    add("--compile", action="store_true", help="torch.compile the model: minutes at first, faster steps after")
    add("--sync-bn", action="store_true", help="batch norm over all processes of a torchrun")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cache", nargs="?", const="ram", choices=("ram", "disk", "gpu"),
        help="keep decoded images: in memory, in a file, or on the device, where they are then augmented too")
    add_max_pixels(parser)
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--strict", action="store_true", help="stop at labels that would otherwise be repaired or left out")
    add("--tile", type=number(int, 32, LONGEST_SIDE), metavar="PX",
        help="train on overlapping windows of this side, cut on the fly")
    add("--tile-overlap", type=number(float, 0, 0.9), default=0.2, help="share of a window that its neighbour repeats")
    add("--oversample-small", nargs="?", const=3.0, type=number(float, 1, 1000), metavar="F",
        help="show images with small objects up to F times as often; default of F: 3")
    add("--rare-classes", nargs="?", const=0.01, type=fraction, metavar="T",
        help="repeat images of classes that less than the share T of images hold; default of T: 0.01")
    add("--image-weights", action="store_true", help="show images of classes with a low AP more often")
    add("--multi-scale", action="store_true", help="every batch at a size of its own, 0.5 to 1.5 times --imgsz")
    add("--rect", action="store_true", help="batches of like aspect with little padding, without mosaic")
    add("--noautoanchor", action="store_true", help="keep the anchors of --cfg, however well they fit the data")


def _add_course(parser: argparse.ArgumentParser) -> None:
    """How a run goes: where it begins, when it ends, what it keeps."""
    add = parser.add_argument
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="same seed, same machine: same result")
    add("--resume", nargs="?", const=True, default=False, help="continue the newest run, or the checkpoint named here")
    add("--allow-data-change", action="store_true", help="--resume: go on although images or labels have changed")
    add("--patience", type=number(int, 0), default=100, help="epochs without a better result to stop after; 0 = never")
    add("--save-best-by", choices=BEST_BY, default="fitness",
        help="what best.pt is best in; fitness = 0.9 AP + 0.1 AP50; default fitness")
    add("--save-every-minutes", type=number(float, 0), default=0, metavar="M",
        help="write last.pt within epochs too; 0 = after epochs only")
    add("--skip-bad-batches", type=number(int, 0), default=0, metavar="N",
        help="go on after so many batches whose loss is not finite; on a GPU each step is then waited for")
    add("--replay", metavar="FILE", help="run a batch again whose loss was not finite, tell where, and end")
    add("--save-period", type=number(int, -1), default=-1, help="also keep a checkpoint every so many epochs")
    add("--val-interval", type=positive, help="epochs between two validations; default 1")
    add("--noval", "--notest", action="store_true", help="validate after the last epoch only")
    add("--nosave", action="store_true", help="save after the last epoch only")


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--noplots", action="store_true", help="no pictures and curves")
    add_device(parser)
    add_workers(parser)
    add("--project", default="runs/train", help="folder of results")
    add("--name", default="exp", help="sub-folder of results")
    add("--exist-ok", action="store_true", help="write into an existing folder")
    add("--logger", nargs="+", choices=LOGGERS, default=[], help="also tell these, where they are installed")
    add("--evolve", nargs="?", const=300, type=positive, metavar="N", help="search hyper-parameters in N trainings")
    add("--storage", default="", metavar="URL", help="--evolve: Optuna's database, for machines that share a search")
    add("--study", default="", metavar="NAME", help="--evolve: name of the search in the database")


def batch_size(text: str) -> int:
    """An argparse type: a whole number from 1, or -1."""
    return -1 if text.strip() == "-1" else int(number(int, 1, 65536)(text))


ONLY_LAST = "with --noval only the last epoch is validated; drop one of the two"
RULES = [
    *not_empty(("resume", "replay", "data", "hyp", "project", "name", "storage", "study")),
    Rule("tile_overlap", lambda args, _: args.tile, "windows overlap where there are some; add --tile"),
    Rule("rect", lambda args, _: not args.tile, "windows of --tile are square; drop --rect"),
    Rule("sync_bn", lambda _, processes: processes > 1, "one process sees the whole batch", fatal=False),
    Rule("val_interval", lambda args, _: not args.noval, ONLY_LAST),
    Rule("patience", lambda args, _: not args.noval or not args.patience, ONLY_LAST),
    Rule("save_best_by", lambda args, _: not args.noval or args.evolve, ONLY_LAST),
    Rule("image_weights", lambda args, _: not args.noval, ONLY_LAST),
    Rule("save_period", lambda args, _: not args.nosave or args.save_period <= 0,
         "with --nosave the last epoch alone is saved; choose one"),
    Rule("save_every_minutes", lambda args, _: not args.nosave or not args.save_every_minutes,
         "with --nosave the last epoch alone is saved; choose one"),
    Rule("linear_lr", lambda args, _: not args.cos_lr, "--cos-lr is another schedule; choose one"),
    Rule("allow_data_change", lambda args, _: args.resume, "a new run has no data to compare with; add --resume"),
    *(Rule(word, lambda args, _: args.evolve, "these belong to --evolve; add it, or drop this")
      for word in ("storage", "study")),
    *(Rule(word, lambda args, _: not args.evolve, "a search names its folders itself, by --study", fatal=False)
      for word in ("name", "exist_ok")),
    Rule("noplots", lambda args, _: not args.evolve, "no trial of --evolve draws", fatal=False),
]
HEAD_RULES = [
    Rule("noautoanchor", lambda _, head: hasattr(head, "anchors"), "this model's head has no anchors", fatal=False),
]
WITH_REPLAY = ("replay", "plugin", "debug")


def check_settings(args: argparse.Namespace, processes: int) -> None:
    """`check_flags` for train.py in so many processes; what depends on the model's head comes later (`HEAD_RULES`)."""
    check_flags(args, RULES, processes)
    idle = [flag_of(word) for word in given(args) if word not in WITH_REPLAY] if args.replay else []
    if idle:
        raise UserError(f"--replay runs one batch again and reads no other flag; drop {' '.join(idle)}")


def settings_of(checkpoint: dict[str, Any], args: argparse.Namespace, path: Path) -> argparse.Namespace:
    """The settings of the run that wrote `checkpoint`; from `args` comes what belongs to the machine, and what may
    change and was given, be it at its default."""
    if "train" not in checkpoint:
        raise UserError(_nothing_to_resume(checkpoint, args, path))
    state = checkpoint["train"]
    stored, asked = _checked_args(state["args"], path), given(args)
    free = (*OF_THE_MACHINE, *CHANGEABLE, "project", "exist_ok")
    first = stored.get("given") or {}  # as typed when the run was started, before it was rounded or measured
    other = [word for word, value in asked.items() if word in stored and word not in free
             and value not in (stored[word], first.get(word, stored[word]))]
    if other:
        flags = " ".join(map(flag_of, other))
        raise UserError(f"--resume: {flags} cannot change, a run goes on as {path} has it; drop it, or start a new run "
                        f"with --weights {path}")
    changed = {word: asked[word] for word in CHANGEABLE if word in asked}
    cache = changed.get("cache", stored["cache"])
    if cache != stored["cache"] and "gpu" in (cache, stored["cache"]):
        raise UserError(f"--resume: --cache {cache} draws other pixels than {path} has with {stored['cache']}; drop it")
    epochs = changed.get("epochs", stored["epochs"])
    if epochs != stored["epochs"]:
        if epochs <= state["epoch"]:
            raise UserError(f"--resume: --epochs {epochs}: {state['epoch']} of {stored['epochs']} are done already; "
                            "give more, or drop it")
        print(f"--epochs {epochs} instead of {stored['epochs']}: from here on the learning rate follows the schedule "
              f"of {epochs} epochs")
        state["ended"] = False
    kept = {k: getattr(args, k) for k in OF_THE_MACHINE if k in args}
    return argparse.Namespace(**{**vars(args), **stored, **changed, **kept})


def _checked_args(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings in a checkpoint, which is not trusted: each must be what its flag could have said."""
    for action in make_parser("")._actions:
        value = stored.get(action.dest)
        if value is None or action.dest in OF_THE_MACHINE:
            continue
        kind = bool if action.nargs == 0 else int | float if action.type else str
        try:
            for one in value if isinstance(value, list) and action.nargs == "+" else [value]:
                if not isinstance(one, kind) or (isinstance(one, bool) and kind is not bool):
                    raise argparse.ArgumentTypeError(f"{shown(one)} is no {'number' if action.type else 'such value'}")
                if action.type:
                    action.type(str(one))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{path}: damaged, its setting {action.option_strings[0]} cannot be: {error}; resume from "
                            "another checkpoint, or start a new run") from None
    return stored


def _nothing_to_resume(checkpoint: dict[str, Any], args: argparse.Namespace, path: Path) -> str:
    """Why a checkpoint of weights alone cannot be resumed, and the command that comes nearest."""
    last = path.with_name("last.pt")
    if path.name != last.name and last.is_file():
        return f"{path}: holds weights alone; runs are resumed from last.pt: --resume {shlex.quote(str(last))}"
    trained = checkpoint.get("config", {}).get("trained", {})
    words = ["--weights", str(path)]
    for flag, value in (("--data", given(args).get("data") or trained.get("data")), ("--imgsz", trained.get("imgsz"))):
        if value and value != "shapes":
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return (f"{path}: this run has ended after {checkpoint.get('epoch', 'all')} epochs, there is nothing to resume; to "
            f"train on from its weights, as a new run: python train.py {shlex.join(words)} --epochs "
            f"{given(args).get('epochs', 'N')}")


def settle(args: argparse.Namespace, recipe: Recipe) -> None:
    """Give every flag its value, in place: flag, else recipe, else default; what overrides the recipe goes into it."""
    for word, default in DEFAULTS.items():
        if getattr(args, word) is None:
            value = recipe.run.get(word, default)
            setattr(args, word, [value] if word == "imgsz" else value)
    for word in ("optimizer", "close_mosaic", "clip_grad"):
        if getattr(args, word) is None:
            setattr(args, word, getattr(recipe, word))
        setattr(recipe, word, getattr(args, word))
    if args.label_smoothing is None:
        args.label_smoothing = recipe.head.get("label_smoothing", 0.0)
    else:
        recipe.head["label_smoothing"] = args.label_smoothing
    if args.cos_lr or args.linear_lr:
        recipe.schedule = "cosine" if args.cos_lr else "linear"


def save_args(args: argparse.Namespace, recipe: Recipe, path: Path) -> None:
    """Write the settled settings and the recipe, so that a run can be read and repeated."""
    content = {k: v for k, v in sorted(vars(args).items()) if k not in ("debug", "given")}
    path.write_text(yaml.safe_dump({**content, "recipe": vars(recipe)}, sort_keys=False), encoding="utf-8")
