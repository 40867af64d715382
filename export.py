"""Export a trained detector as ONNX or TorchScript, each file proved against PyTorch before it takes its place.

    python export.py --weights runs/train/exp/weights/best.pt --include onnx torchscript --dynamic

The files lie beside the weights. They take `images` (B, 3, H, W) float32 RGB in [0, 1] and give `boxes` (B, N, 4) xyxy
input pixels and `scores` (B, N, classes); detect.py and val.py accept them as --weights and do the NMS.
"""

import argparse
import shlex
import time
from pathlib import Path

import numpy as np
import torch

from data.shapes import Scene, render
from models import load_model
from models.export import FORMATS, OPSET, ExportOptions, export
from models.plugins import add_plugin_flag, load_plugins
from utils.cli import Parser, add_device, add_size, input_size, number, positive, refused
from utils.device import select_device
from utils.errors import UserError, run_script

ELSEWHERE = "use --include onnx, which that runtime's own converter reads"
OUTSIDE = "files give boxes and scores; detect.py and val.py choose, with --conf-thres --iou-thres --max-det"
DROP = "drop the flag"
REFUSED = {
    "--int8": "use --half", "--fp16": "use --half", "--format": "use --include",
    "--dynamic-batch": "use --dynamic, which leaves batch and size free",
    "--grid": f"boxes are always decoded, {DROP}", "--data": f"class names come from the weights, {DROP}",
    "--inplace": DROP, "--train": DROP, "--optimize": DROP, "--keras": ELSEWHERE, "--workspace": ELSEWHERE,
    **dict.fromkeys(("--nms", "--agnostic-nms", "--end2end", "--include-nms", "--max-wh", "--topk-per-class",
                     "--topk-all", "--iou-thres", "--conf-thres"), OUTSIDE),
}


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="checkpoint (.pt)")
    parser.add_argument("--include", nargs="+", type=known_format, default=["torchscript", "onnx"], metavar="FORMAT",
                        help=f"formats: {', '.join(FORMATS)}")
    add_size(parser, default=None)  # None: the size it was trained at
    parser.add_argument("--batch-size", type=positive, default=1, help="images per call (--dynamic: the one checked)")
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height and width free")
    parser.add_argument("--half", action="store_true", help="fp16 inside; inputs and outputs stay float32")
    parser.add_argument("--opset", type=number(int, 11, 25), help=f"ONNX operator set (default {OPSET})")
    parser.add_argument("--simplify", action="store_true", help="ONNX: fold and tidy the graph with onnxslim")
    add_device(parser, default="cpu")
    add_plugin_flag(parser)
    refused(parser, REFUSED)
    return parser


def known_format(word: str) -> str:
    if word not in FORMATS:
        raise argparse.ArgumentTypeError(f"{word!r} is not among {', '.join(FORMATS)}; for other runtimes {ELSEWHERE}")
    return word


def main(args: argparse.Namespace) -> list[Path]:
    """Export every format asked for; returns the files. Raises `UserError`, with no file replaced by a worse one."""
    load_plugins(args)
    weights = Path(args.weights)
    if weights.suffix not in (".pt", ".pth"):
        raise UserError(f"--weights {weights}: only checkpoints (.pt, .pth) can be exported")
    if "onnx" not in args.include and (args.opset or args.simplify):
        raise UserError(f"{'--opset' if args.opset else '--simplify'} is about ONNX; add --include onnx, or drop it")
    model = load_model(weights, device=select_device(args.device))
    wanted = args.imgsz or model.config.get("trained", {}).get("imgsz", [640])[-1:]
    options = ExportOptions(input_size(wanted, max(model.strides)), args.batch_size, args.dynamic, args.half,
                            args.opset or OPSET, args.simplify)
    scenes = np.stack([render(0, "val", number, options.size, Scene())[0] for number in range(2)])  # (2, H, W, 3) BGR
    pictures = torch.from_numpy(scenes[..., ::-1].transpose(0, 3, 1, 2).copy())  # (2, 3, H, W) RGB
    done = []
    for name in dict.fromkeys(args.include):
        start = time.perf_counter()
        path = weights.with_suffix(FORMATS[name])
        comparisons = export(model, path, options, pictures)
        print(f"{name}: {path} ({path.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - start:.1f} s), "
              "checked against PyTorch:")
        print("\n".join(f"  {comparison}" for comparison in comparisons))
        done.append(path)
    free = f"{options.batch} x 3 x {options.size[0]} x {options.size[1]}"
    if options.dynamic:
        free = f"any batch, height and width in multiples of {max(model.strides)}"
    print(f"input: {free}; try: python detect.py --weights {shlex.quote(str(done[-1]))} --source "
          "<picture, folder or video>")
    return done


if __name__ == "__main__":
    run_script(main, build_parser())
