"""Export a trained detector; each file is compared with PyTorch before it replaces another.

    python export.py --weights runs/train/exp/weights/best.pt --include onnx openvino --dynamic

Formats: onnx, openvino, engine (TensorRT), torchscript, pt2 (torch.export). The files lie beside the weights; detect.py
and val.py accept them as --weights. What they take and give: docs/export.md.
"""

import argparse
import shlex
import time
from pathlib import Path

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

from engine.export.config import ExportConfig
from engine.export.export import Exported, export
from engine.export.pictures import open_pictures
from engine.export.sizes import export_size
from models import load_model
from models.plugins import load_plugins
from utils.commands import command
from utils.device import select_device
from utils.errors import run_script


def build_parser() -> argparse.ArgumentParser:
    return ExportConfig.parser(__doc__.splitlines()[0], "export")


def main(args: argparse.Namespace) -> list[Path]:
    """Export every format of `--include`; returns the files. Raises `UserError`; a file that fails replaces none."""
    config = ExportConfig.from_args(args).check()
    load_plugins(config.plugin)
    model = load_model(config.weights, device=select_device(config.device))
    config = config.replace(imgsz=export_size(model, config))
    pictures = open_pictures(config.data, config.images) if config.data else None
    done = []
    for name, path in config.paths().items():
        start = time.perf_counter()
        exported = export(model, path, config, pictures)
        print(describe(name, exported, time.perf_counter() - start))
        done.append(path)
    shape = f"{config.batch_size} x 3 x {config.size[0]} x {config.size[1]}"
    if config.dynamic:
        shape = f"any batch, height and width in multiples of {model.frame.multiple}"
    print(f"input: {shape}; try: {command('detect')} --weights {shlex.quote(str(done[-1]))} --source "
          "<picture, folder or video>")
    return done


def describe(name: str, exported: Exported, seconds: float) -> str:
    """What is printed of one format."""
    lines = [f"{name}: {exported.path} ({exported.mebibytes:.1f} MiB, {seconds:.1f} s), checked against PyTorch:",
             *(f"  {comparison}" for comparison in exported.comparisons)]
    if exported.accuracy:
        lines.append(f"  {exported.accuracy}")
    elif not any(comparison.found for comparison in exported.comparisons):
        lines.append("  nothing was found on these pictures; --data compares on yours")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main, build_parser())
