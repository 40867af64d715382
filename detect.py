"""Find objects in images, videos and streams with a trained detector.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/ --save-txt

--weights is a checkpoint (.pt) or a file made by export.py (.onnx, .torchscript), or several, whose detections are
merged. --slice 640 looks at windows of large images at full resolution. Images with boxes drawn in, label
rows, crops, JSON and CSV go to runs/detect/exp, exp2, ... Ctrl-C finishes the image and the files.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from utils.threads import shorten_spinning

if __name__ == "__main__":
    shorten_spinning()  # OpenMP reads it when PyTorch is imported

from engine.inference.config import DetectConfig
from engine.inference.hints import SliceHint
from engine.inference.predictor import make_predictor
from engine.inference.progress import Progress, print_end
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.open import load_runtime
from engine.inference.sources import open_source
from engine.inference.tracking import Tracker
from engine.inference.window import Window
from engine.inference.writer import ResultWriter
from engine.inference.writing.ids import result_ids
from models.plugins import load_plugins
from utils.errors import run_script
from utils.signals import StopRequest

if TYPE_CHECKING:
    from engine.inference.explain import Explainer


def build_parser() -> argparse.ArgumentParser:
    return DetectConfig.parser(__doc__.splitlines()[0], "detect")


def main(args: argparse.Namespace) -> Path | None:
    """Detect in everything that `--source` means; returns the results folder, None if nothing was to be saved."""
    config = DetectConfig.from_args(args).check()
    load_plugins(config.plugin)
    runtimes = [load_runtime(weights, config.device, config.half, config.trust) for weights in config.weights]
    predictor = make_predictor(runtimes, config)
    explain = open_explainer(runtimes[0], config)
    frames = open_source(config.source, vid_stride=config.vid_stride, max_pixels=config.max_pixels,
                         patience=config.patience)
    look = predictor.looks.looks[0]
    hint = SliceHint(look.runtime, look.size, sliced=config.slice is not None)
    progress, window = Progress(hint), Window(config.style) if config.view_img else None
    ids = result_ids(config.data, runtimes[0]) if config.save_json else None
    tracker = Tracker(config.track, config.conf_thres) if config.track else None
    with (StopRequest("finishing this image, then the results", frames.stop) as stop,
          ResultWriter(config, predictor.names, ids) as results):
        for result in map(tracker, predictor.stream(frames)) if tracker else predictor.stream(frames):
            progress.add(result)
            results.add(result, explain(result) if explain else None)
            if window and not window.show(result):
                frames.stop()
    print_end(frames, predictor.images, predictor.speed(), interrupted=stop.number > 0)
    notes = tracker and tracker.summary(), ids and ids.note, f"results: {results.summary()}"
    print(*filter(None, notes), sep="\n")
    if stop.number:
        sys.exit(stop.code)
    return results.folder


def open_explainer(runtime: Runtime, config: DetectConfig) -> "Explainer | None":
    """What draws the maps of `--explain`, None without that flag."""
    if not config.explain:
        return None
    from engine.inference.explain import Explainer  # here, since detection starts without it

    return Explainer(runtime, config.imgsz)


if __name__ == "__main__":
    run_script(main, build_parser())
