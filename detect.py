"""Find objects in images and videos with a trained detector.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/ --save-txt

--weights is a checkpoint (.pt) or a file made by export.py (.onnx, .torchscript), or several, whose detections are
merged. --slice 640 looks at windows of large images at full resolution. Images with boxes drawn in, label
rows, crops and JSON go to runs/detect/exp, exp2, ...
"""

import argparse
from pathlib import Path

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.explain import Explainer
from engine.inference.hints import SliceHint
from engine.inference.predictor import make_predictor
from engine.inference.runtimes.open import load_runtime
from engine.inference.sources import open_source
from engine.inference.writer import ResultWriter
from models.plugins import load_plugins
from utils.class_names import count_classes
from utils.errors import printable, run_script


def build_parser() -> argparse.ArgumentParser:
    return DetectConfig.parser(__doc__.splitlines()[0], "detect")


def main(args: argparse.Namespace) -> Path | None:
    """Detect in everything that `--source` means; returns the results folder, None if nothing was to be saved."""
    config = DetectConfig.from_args(args).check()
    load_plugins(config.plugin)
    runtimes = [load_runtime(weights, config.device, config.half, config.trust) for weights in config.weights]
    predictor = make_predictor(runtimes, config)
    explain = Explainer(runtimes[0], config.imgsz) if config.explain else None
    frames = open_source(config.source, vid_stride=config.vid_stride, max_pixels=config.max_pixels)
    results, look = ResultWriter(config, predictor.names), predictor.looks.looks[0]
    hint = SliceHint(look.runtime, look.size, sliced=config.slice is not None)
    try:
        for result in predictor.stream(frames):
            print(line_of(result), *hint(*result.image.shape[:2]), sep="\n")
            results.add(result, explain(result) if explain else None)
        results.close()
    finally:
        results.drop_unfinished()
    for what, lines in (("skipped", frames.skipped), ("incomplete:", frames.incomplete), ("stream", frames.notes)):
        print(*(f"{what} {printable(line)}\n" for line in lines), sep="", end="")
    skipped = f", {len(frames.skipped)} skipped" if frames.skipped else ""
    print(f"{predictor.images} image{'s' * (predictor.images > 1)}{skipped}; {predictor.speed()}")
    print(f"results: {results.summary()}")
    return results.folder


def line_of(result: ImageDetections) -> str:
    """What is printed of one image."""
    counts = count_classes(result.labels.tolist(), result.names) or "no detections"
    return f"{result.frame}: {result.seen} {printable(counts)}, {1e3 * result.seconds:.1f} ms"


if __name__ == "__main__":
    run_script(main, build_parser())
