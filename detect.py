"""Find objects in images and videos with a trained detector.

    python detect.py --weights runs/train/exp/weights/best.pt --source images/ --save-txt

--weights is a checkpoint (.pt) or a file made by export.py (.onnx, .torchscript). Images with boxes drawn in, label
rows, crops and JSON go to runs/detect/exp, exp2, ...
"""

import argparse
from pathlib import Path

from engine.inference.config import DETECT_UNSUPPORTED, DetectConfig
from engine.inference.runtime import load_runtime
from engine.inference.sources import open_source
from engine.inference.writer import ResultWriter
from models.plugins import load_plugins
from utils.class_names import count_classes
from utils.errors import UserError, printable, run_script
from utils.reporting.stage_clock import StageClock, format_speed, per_image


def build_parser() -> argparse.ArgumentParser:
    return DetectConfig.parser(__doc__.splitlines()[0], DETECT_UNSUPPORTED)


def main(args: argparse.Namespace) -> Path | None:
    """Detect in everything that `--source` means; returns the results folder, None if nothing was to be saved."""
    config = DetectConfig.from_args(args).check()
    load_plugins(config.plugin)
    runtime = load_runtime(config.weights, config.device, config.half, config.trust)
    thresholds = config.thresholds(runtime.names)
    runtime.check_suppression({"--iou-thres": config.iou_thres is not None, "--agnostic-nms": config.agnostic_nms})
    size = runtime.choose_size(config.imgsz)
    frames = open_source(config.source, vid_stride=config.vid_stride, max_pixels=config.max_pixels)
    results = ResultWriter(config, runtime.names)
    clock, images = StageClock(runtime.device, ("pre-process", "inference", "NMS")), 0
    try:
        for frame in frames:
            image, letterbox = runtime.prepare(frame.image, size)
            clock.lap("pre-process")
            boxes, scores = runtime.predict(image, runtime.content([letterbox]))
            clock.lap("inference")
            found = runtime.select(boxes, scores, thresholds)[0].to_original(letterbox).cpu()
            clock.lap("NMS")
            if not bool(found.boxes.isfinite().all()):
                raise UserError(f"{config.weights}: finds boxes that are not finite in {frame.path}; its weights have "
                                "diverged or are damaged, take other ones", "not-finite")
            height, width = image.shape[2:]
            counts = count_classes(found.labels.tolist(), runtime.names) or "no detections"
            print(f"{frame}: {height}x{width} {printable(counts)}, {1e3 * clock.spent:.1f} ms")
            results.add(frame, found)
            images += 1
            clock.start()
        results.close()
    finally:
        results.drop_unfinished()
    for reason in frames.skipped:
        print(f"skipped {printable(reason)}")
    skipped = f", {len(frames.skipped)} skipped" if frames.skipped else ""
    print(f"{images} image{'s' * (images > 1)}{skipped}; speed per image at {size[0]}x{size[1]}: "
          f"{format_speed(per_image(clock.seconds, images))}")
    print(f"results: {results.summary()}")
    return results.folder


if __name__ == "__main__":
    run_script(main, build_parser())
