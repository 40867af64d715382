"""Find objects in images and videos with a trained detector.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/ --save-txt

--weights is a checkpoint (.pt) or a file made by export.py (.onnx, .torchscript), or several, whose detections are
merged. --slice 640 looks at windows of large images at full resolution. Images with boxes drawn in, label
rows, crops and JSON go to runs/detect/exp, exp2, ...
"""

import argparse
import time
from pathlib import Path

from engine.inference.config import DETECT_UNSUPPORTED, DetectConfig
from engine.inference.look import Ensemble, Look
from engine.inference.runtime import load_runtime
from engine.inference.sources import open_source
from engine.inference.view_flags import MODELS, merges_models, slicing_of
from engine.inference.writer import ResultWriter
from models.plugins import load_plugins
from utils.class_names import count_classes
from utils.errors import UserError, printable, run_script
from utils.reporting.stage_clock import format_speed, per_image


def build_parser() -> argparse.ArgumentParser:
    return DetectConfig.parser(__doc__.splitlines()[0], DETECT_UNSUPPORTED)


def main(args: argparse.Namespace) -> Path | None:
    """Detect in everything that `--source` means; returns the results folder, None if nothing was to be saved."""
    config = DetectConfig.from_args(args).check()
    load_plugins(config.plugin)
    looks = open_looks(config)
    names = looks.looks[0].runtime.names
    frames = open_source(config.source, vid_stride=config.vid_stride, max_pixels=config.max_pixels)
    results, images = ResultWriter(config, names), 0
    try:
        for frame in frames:
            began = time.perf_counter()
            try:
                found = looks(frame.image)
            except UserError as error:
                raise UserError(f"{frame.path}: {error}" if error.code == "not-finite" else str(error),
                                code=error.code) from None
            spent = time.perf_counter() - began
            counts = count_classes(found.labels.tolist(), names) or "no detections"
            print(f"{frame}: {looks.seen} {printable(counts)}, {1e3 * spent:.1f} ms")
            results.add(frame, found)
            images += 1
        results.close()
    finally:
        results.drop_unfinished()
    for reason in frames.skipped:
        print(f"skipped {printable(reason)}")
    skipped = f", {len(frames.skipped)} skipped" if frames.skipped else ""
    sizes = " and ".join(dict.fromkeys("{}x{}".format(*look.size) for look in looks.looks))
    print(f"{images} image{'s' * (images > 1)}{skipped}; speed per image at {sizes}: "
          f"{format_speed(per_image(looks.seconds, images))}")
    print(f"results: {results.summary()}")
    return results.folder


def open_looks(config: DetectConfig) -> Ensemble:
    """The models of `--weights`, ready to look at images as the flags say."""
    looks = []
    for weights in config.weights:
        runtime = load_runtime(weights, config.device, config.half, config.trust)
        thresholds = config.thresholds(looks[0].runtime.names if looks else runtime.names)
        runtime.check_suppression({"--iou-thres": config.iou_thres is not None, "--agnostic-nms": config.agnostic_nms})
        looks.append(Look(runtime, runtime.choose_size(config.imgsz), thresholds, slicing_of(config), config.augment))
    return Ensemble(looks, config.merge if merges_models(config) and config.merge else MODELS)


if __name__ == "__main__":
    run_script(main, build_parser())
