"""Export a trained detector as ONNX or TorchScript; each file is compared with PyTorch before it replaces another.

    python export.py --weights runs/train/exp/weights/best.pt --include onnx torchscript --dynamic

The files lie beside the weights. They take `images` (B, 3, H, W) float32 RGB in [0, 1] and give `boxes` (B, N, 4) xyxy
input pixels and `scores` (B, N, classes); detect.py and val.py accept them as --weights and select detections (NMS).
"""

import argparse
import shlex
import time
from pathlib import Path

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

import numpy as np
import torch

from data.shapes.generate import Scene, render
from engine.export.config import FORMATS, ExportConfig
from engine.export.export import export, export_size
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
    weights = Path(config.weights)
    model = load_model(weights, device=select_device(config.device))
    config = config.replace(imgsz=export_size(model, config))
    scenes = np.stack([render(0, "val", number, config.size, Scene())[0] for number in range(2)])  # (2, H, W, 3) BGR
    pictures = torch.from_numpy(scenes[..., ::-1].transpose(0, 3, 1, 2).copy())  # (2, 3, H, W) RGB
    done = []
    for name in dict.fromkeys(config.include):
        start = time.perf_counter()
        path = weights.with_suffix(FORMATS[name])
        comparisons = export(model, path, config, pictures)
        print(f"{name}: {path} ({path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - start:.1f} s), "
              "checked against PyTorch:")
        print("\n".join(f"  {comparison}" for comparison in comparisons))
        done.append(path)
    shape = f"{config.batch_size} x 3 x {config.size[0]} x {config.size[1]}"
    if config.dynamic:
        shape = f"any batch, height and width in multiples of {model.frame.multiple}"
    print(f"input: {shape}; try: {command('detect')} --weights {shlex.quote(str(done[-1]))} --source "
          "<picture, folder or video>")
    return done


if __name__ == "__main__":
    run_script(main, build_parser())
