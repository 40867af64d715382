"""Print a model's layers: python -m models yolov8n-assn --imgsz 640."""

import argparse

import torch

from models.catalogue import NO_NECK, known_models
from models.config_checks import LEVELS
from models.detector import build_model
from models.plugins import load_plugins
from models.registry import known_necks
from models.summary import format_summary, summarise
from utils.errors import UserError, run_script
from utils.options import add_flag, plugin_option
from utils.parser import Parser


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = Parser(prog="python -m models", description="Print what a model is made of.")
    flags.add_argument("model", nargs="?", help="a name such as yolov8n-assn, or a model file; without it, all names")
    group = flags.group("model")
    group.add_argument("--imgsz", "--img", "--img-size", type=int, nargs="+", metavar="PX",
                       help="side, or height and width; default: the model's, 640 where it is free")
    group.add_argument("--nc", type=int, metavar="N", help="number of classes; the model file's by default")
    group.add_argument("--neck", metavar="NAME", help=f"put this neck on: {', '.join([NO_NECK, *known_necks()])}")
    group.add_argument("--levels", choices=LEVELS, help="p2: add a level of half the finest stride")
    add_flag(group, "plugin", plugin_option())
    return flags


def main(args: argparse.Namespace) -> None:
    """Print the table, or the known names."""
    load_plugins(args.plugin)
    if args.model is None:
        print("\n".join(known_models()))
        return
    if args.imgsz and len(args.imgsz) > 2:
        raise UserError("--imgsz takes one number, or height and width", code="bad-value")
    with torch.device("meta"):  # nothing is computed, so nothing need be stored
        model = build_model(args.model, args.nc, neck=args.neck, levels=args.levels)
    frame = model.frame
    size = frame.up(frame.resolve()) if args.imgsz is None else (args.imgsz[0], args.imgsz[-1])
    if any(side < 1 or side % frame.multiple for side in size) or frame.size not in (None, size):
        takes = f"multiples of {frame.multiple}" if frame.size is None else "{} and {}".format(*frame.size)
        raise UserError(f"--imgsz {' '.join(map(str, args.imgsz))}: both sides must be {takes}", code="bad-size")
    print(format_summary(model, summarise(model, size)))


if __name__ == "__main__":
    run_script(main, build_parser())
