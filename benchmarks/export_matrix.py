"""What every format of export.py does to one model of each family: `python -m benchmarks.export_matrix`

Each file is compared with PyTorch as export.py compares it; a row has the greatest differences, the size of the file
and the time of one image, or why the file was refused. The models of families are untrained, with scores spread as a
trained one's (`tests.tiny`); `--weights FILE --data DATA` adds trained ones, with AP before and after.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.measure import Row, add_page_flags, heading, write_page
from benchmarks.record import table
from engine.export.config import ExportConfig
from engine.export.export import Exported, export
from engine.export.gate import Comparison
from engine.export.pictures import Pictures, built_in, open_pictures
from engine.export.sizes import export_size
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import TorchRuntime
from engine.inference.runtimes.open import load_runtime
from models import build_model, load_model
from tests.tiny import tiny_model
from utils.cli import positive
from utils.errors import UserError, run_script

FAMILIES = ("yolov8n-assn", "yolov5n", "yolov7-tiny", "yolov3-tiny", "ssd300-r18", "retinanet-r18",
            "salience-detr-tiny")
PLAIN = ("retinanet", "salience", "scale-focused")  # as they are drawn: their last layers start from constants
SIDE, SMALL = 160, 64
LANDSCAPE = (128, 192)  # of models whose frames fit their images
# format and flags, as they are given to export.py
VARIANTS = {
    "onnx": {}, "onnx --half": {"half": True}, "onnx --dynamic --simplify": {"dynamic": True, "simplify": True},
    "onnx --nms": {"nms": True}, "onnx --layout peer": {"layout": "peer"}, "openvino": {},
    "openvino --half": {"half": True}, "openvino --int8": {"int8": True}, "torchscript": {}, "pt2": {}}
TIMED = 11  # runs of one image


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="names of models")
    parser.add_argument("--weights", nargs="*", default=[], help="trained models (.pt), compared on --data")
    parser.add_argument("--data", help="data set of --weights")
    parser.add_argument("--images", type=positive, default=64, help="of --data, to compare and calibrate on")
    add_page_flags(parser.add_argument, "export_matrix")
    return parser


def main(args: argparse.Namespace) -> list[Row]:
    """Export, compare and time; writes the page and returns its rows."""
    side, rows = SMALL if args.small else SIDE, []
    variants = dict(list(VARIANTS.items())[:2]) if args.small else VARIANTS
    for name in args.families:
        model = build_model(name, 3) if name.startswith(PLAIN) else tiny_model(name)
        rows += measure(name, model.eval(), ExportConfig(weights=f"{name}.pt", imgsz=(side, side)), None, variants)
    for weights in args.weights:
        config = ExportConfig(weights=weights, data=args.data, images=args.images)
        pictures = open_pictures(args.data, args.images) if args.data else None
        rows += measure(weights, load_model(weights).eval(), config, pictures, variants)
    device = torch.device("cpu")
    page = [*heading("Exported files beside PyTorch", device, args.small), *__doc__.split("\n\n")[1].splitlines(), "",
            f"{torch.get_num_threads()} threads; milliseconds are the median of {TIMED} images, of one after another.",
            "", *table([*rows[0]], [[*row.values()] for row in rows])]
    write_page("export_matrix", device, args, "\n".join(page) + "\n")
    return rows


def measure(name: str, model: nn.Module, config: ExportConfig, pictures: Pictures | None,
            variants: dict[str, dict]) -> Iterator[Row]:
    """A row for PyTorch, and for each variant."""
    if config.imgsz and (model.frame.size is not None or model.frame.fits_images):
        config = replace(config, imgsz=model.frame.size or LANDSCAPE)
    size = export_size(model, config)
    with tempfile.TemporaryDirectory() as folder:
        reference = TorchRuntime(Path(name), load_again(model), torch.device("cpu"), half=False)
        yield row_of(name, "PyTorch", size, milliseconds(reference, size))
        for title, flags in variants.items():
            path, began = Path(folder) / title.replace(" ", ""), time.perf_counter()
            row = row_of(name, title, size)
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    row = exported_row(row, model, path, replace(config, imgsz=size, **flags), pictures)
            except UserError as error:
                row["refused"] = str(error).replace(str(path), "file").replace("|", "/")[:160]
            print(*(value for value in row.values() if value), f"({time.perf_counter() - began:.0f} s)", flush=True)
            yield row


def exported_row(row: Row, model: nn.Module, path: Path, config: ExportConfig, pictures: Pictures | None) -> Row:
    """Export and time one variant. Raises `UserError` where that is refused."""
    config = config.replace(include=(row["format"].split()[0],))
    if config.dynamic:
        export_size(model, config)
    target, = replace(config, output=str(path)).paths().values()
    done = export(model, target, config, pictures or built_in(config.size, 16 if config.int8 else 2))
    worst = worst_of(done)
    runtime = load_runtime(target, "cpu", trust=True)
    return row | {
        "box px": f"{worst.boxes:.2g}", "score": f"{worst.scores:.2g}",
        "the same": f"{worst.found - worst.differ} of {worst.found}", "MiB": f"{done.mebibytes:.1f}",
        "ms": f"{milliseconds(runtime, config.size):.1f}",
        "AP": f"{done.accuracy.before[0]:.4f} -> {done.accuracy.after[0]:.4f}" if done.accuracy else ""}


def row_of(name: str, title: str, size: tuple[int, int], ms: float | None = None) -> Row:
    return {"model": name, "format": title, "size": f"{size[0]}x{size[1]}", "box px": "", "score": "", "the same": "",
            "MiB": "", "ms": "" if ms is None else f"{ms:.1f}", "AP": "", "refused": ""}


def worst_of(done: Exported) -> Comparison:
    """The comparison on pictures with the greatest difference of boxes."""
    return max((c for c in done.comparisons if c.kind == "pictures"), key=lambda c: c.boxes)


def load_again(model: nn.Module) -> nn.Module:
    """A copy, since a runtime fuses its model."""
    again = build_model(model.config)
    again.load_state_dict(model.state_dict())
    return again


def milliseconds(runtime: Runtime, size: tuple[int, int]) -> float:
    """Median time of one image."""
    image = torch.randint(256, (runtime.fixed_batch or 1, 3, *size), dtype=torch.uint8)
    seconds = []
    for _ in range(TIMED + 1):
        began = time.perf_counter()
        runtime.predict(image)
        seconds.append(time.perf_counter() - began)
    return 1e3 * median(seconds[1:])


if __name__ == "__main__":
    run_script(main, build_parser())
