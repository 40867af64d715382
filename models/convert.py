"""Write a checkpoint of another code base in our format: python -m models.convert old.pt new.pt."""

import argparse
from pathlib import Path

from models.detector import build_model
from models.plugins import load_plugins
from models.weights import import_original, load_backbone, pixels_note
from utils.checkpoint import is_ours, save_checkpoint
from utils.commands import command
from utils.errors import UserError, run_script
from utils.options import add_flag, plugin_option
from utils.parser import Parser


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = Parser(prog="python -m models.convert", description="Write a checkpoint of YOLOv3, v4, "
                                    "v5, YOLOR, v7, v8, their forks, SSD, ASSD, Salience DETR or torchvision in this "
                                    "project's form.")
    flags.add_argument("old", help="the original's .pt or .pth")
    flags.add_argument("new", help="the .pt to write")
    group = flags.group("what the file does not say")
    group.add_argument("--cfg", metavar="NAME", help="the model that a bare state dict holds, by name or model file")
    group.add_argument("--backbone", action="store_true", help="it is a classifier, for the backbone of --cfg, whose "
                       "head is new")
    group.add_argument("--names", metavar="FILE", help="class names: a .names or .txt file, one per line")
    add_flag(group, "plugin", plugin_option())
    return flags


def read_names(path: Path | str, count: int) -> list[str]:
    """Class names, one per line. Raises `UserError` where there are not `count` of them."""
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--names {path}: cannot be read: {getattr(error, 'strerror', None) or error}",
                        code="unreadable-file") from None
    if len(names) != count:
        raise UserError(f"--names {path}: {len(names)} names for {count} classes; give one line per class",
                        code="wrong-count")
    return names


def main(args: argparse.Namespace) -> None:
    """Convert, and tell what was carried."""
    load_plugins(args.plugin)
    new = Path(args.new)
    if new.suffix != ".pt":
        raise UserError(f"{new}: name the new file .pt", code="bad-value")
    if new.exists() and Path(args.old).exists() and new.samefile(args.old):
        raise UserError(f"{new}: is the original itself; name another file, so that it is kept", code="bad-value")
    if is_ours(args.old):
        raise UserError(f"{args.old}: is in this project's format already; use it as it is", code="flag-without-effect")
    if args.backbone:
        if not args.cfg:
            raise UserError("--backbone: add --cfg, the model whose backbone takes the weights", "missing-flag")
        model = build_model(args.cfg)
        report = load_backbone(model, args.old)
        note = pixels_note(model, report)
        if note:
            print(note)
    else:
        model, report = import_original(args.old, args.cfg)
    if args.names:
        model.names = model.config["names"] = read_names(args.names, model.num_classes)
    save_checkpoint({"config": model.config, "names": model.names, "model": model.state_dict()}, new)
    count = sum(p.numel() for p in model.parameters())
    print(f"{args.old}: {count:,} parameters, {model.num_classes} classes, strides "
          f"{', '.join(map(str, model.strides))}; {report}")
    following = command("train" if args.backbone else "val")
    print(f"written to {new}; next: {following} --weights {new} --data <your data>")


if __name__ == "__main__":
    run_script(main, build_parser())
