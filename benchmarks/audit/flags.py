"""The flags of the audit: those of train.py that shape the model, the data or a step of training, and its own."""

import argparse
from dataclasses import fields

from engine.training.config import TrainConfig
from utils.cli import Rule, check_flags, positive
from utils.options import add_flag
from utils.parser import Parser

# of train.py: what decides on the optimiser, on the length of a training, on its checkpoints and on searches
LEFT_OUT = frozenset((
    "freeze", "neck_lr", "image_weights", "epochs", "optimizer", "cos_lr", "linear_lr", "close_mosaic", "clip_grad",
    "skip_bad_batches", "resume", "allow_data_change", "patience", "save_best_by", "save_every_minutes", "save_period",
    "nosave", "noval", "val_interval", "protocol", "size_bins", "eval_iou", "logger", "compile", "sync_bn", "evolve",
    "storage", "study", "audit_assignment", "replay"))
PROJECT, BATCHES = "runs/audit", 16
RULES = [Rule("batch_size", lambda config, _: config.batch_size != -1,
              "-1 measures steps of a training; give a number")]


def make_parser(description: str) -> Parser:
    """The parser; `--assign` takes several names, whose positives are shown side by side."""
    parser, title = Parser(prog="python -m benchmarks.audit", description=description), "flags"
    for flag in fields(TrainConfig):
        title = TrainConfig.GROUPS.get(flag.name, title)
        if flag.name == "assign":
            parser.group(title).add_argument("--assign", nargs="+", default=[], metavar="NAME", help=(
                "one or more, compared on the same batches; the first is the training's; "
                + flag.metadata["words"]["help"]))
        elif "words" in flag.metadata and flag.name not in LEFT_OUT:
            add_flag(parser.group(title), flag.name, flag)
    parser.group("audit").add_argument("--batches", type=positive, default=BATCHES, metavar="N",
                                       help=f"training batches to look at; default {BATCHES}")
    parser.set_defaults(project=PROJECT)
    return parser


def read_flags(args: argparse.Namespace) -> tuple[TrainConfig, list[str]]:
    """The settings of the training that is looked at, and the assigners to compare, the first of which is its own; none
    for that of the model. Raises `UserError` for flags without effect."""
    names = list(dict.fromkeys(args.assign))
    config = TrainConfig.from_args(args).replace(assign=names[0] if names else None).check(1)
    check_flags(config, RULES)
    return config, names
