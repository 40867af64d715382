"""A detector, its training and its files, small enough to be made and read in a few hundredths of a second."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from benchmarks.fuzzing.kinds.common import NAMES, picture, write_yaml, write_yolo
from engine.inference.runtimes.base import Runtime
from models import build_model
from utils.checkpoint import save_checkpoint
from utils.select import SelectConfig

BACKBONE = [
    [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C2f", [32]], [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "Conv", [64, 3, 2]], [-1, 1, "SPPF", [64, 5]], [-1, 1, "Conv", [64, 3, 2]],
]
ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45], [59, 119, 116, 90]]
FLAGS = ["--cfg", "tiny.yaml", "--data", "data.yaml", "--epochs", "1", "--imgsz", "64", "--batch-size", "2"]
FLAGS += ["--workers", "0", "--noplots", "--device", "cpu", "--amp", "fp32"]


def tiny(anchors: bool = False) -> dict[str, Any]:
    """A model file of seven rows and a head, with anchors or without."""
    content = {"nc": len(NAMES), "depth_multiple": 0.33, "width_multiple": 0.25, "backbone": copy.deepcopy(BACKBONE)}
    if anchors:
        return {**content, "anchors": copy.deepcopy(ANCHORS), "head": [[[3, 5, 6], 1, "Detect", ["nc", "anchors"]]]}
    return {**content, "head": [[[3, 5, 6], 1, "Detect", ["nc"]]]}


def tiny_model(anchors: bool = False) -> torch.nn.Module:
    """Its weights are always the same."""
    torch.manual_seed(0)
    return build_model(tiny(anchors), names=NAMES).eval()


def write_tiny(path: Path, anchors: bool = False) -> Path:
    """A checkpoint of ours."""
    model = tiny_model(anchors)
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, path)
    return path


def write_place(folder: Path) -> None:
    """All that the scripts need: tiny.yaml and anchors.yaml, data.yaml with its images, tiny.pt, image.jpg."""
    write_yaml(folder, write_yolo(folder, np.random.default_rng(0)))
    for name, anchors in (("tiny", False), ("anchors", True)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tiny(anchors)), encoding="utf-8")
    write_tiny(folder / "tiny.pt")
    write_image(folder / "image.jpg")


class Enough(Exception):
    """Stops the training of `write_run` after its first epoch."""


def write_run(folder: Path) -> Path:
    """run/weights/last.pt in `folder`, of a training that was stopped after the first of two epochs; its data lie in
    the working directory, as `write_place` writes them."""
    import train
    from utils.distributed.group import Group

    def stop(fitness: float, epoch: int) -> None:
        raise Enough

    words = [*FLAGS, "--epochs", "2", "--project", str(folder), "--name", "run"]
    try:
        config = train.TrainConfig.from_args(train.build_parser().parse_args(words))
        train.train(config, Group(), torch.device("cpu"), on_validation=stop)
    except Enough:
        return folder / "run" / "weights" / "last.pt"
    raise RuntimeError("the training was not stopped")


DETECT = ["--source", "image.jpg", "--device", "cpu", "--conf-thres", "0.01"]
DETECT += ["--save-txt", "--save-crop", "--save-json"]


def write_image(path: Path) -> None:
    """A picture to detect in."""
    path.write_bytes(cv2.imencode(".jpg", picture(3))[1].tobytes())


def use(runtime: Runtime) -> None:
    """What `detect.py` does with weights, on one small picture."""
    from utils.cli import class_indices

    runtime.choose_size(None)
    class_indices(["0", str(runtime.names[0])[:50]] if runtime.names else ["0"], runtime.names)
    images, placed = runtime.prepare(picture(0), runtime.choose_size(runtime.fixed_size or [64]))
    boxes, scores = runtime.predict(images)
    found = runtime.select(boxes, scores, SelectConfig(0.001))[0].to_original(placed).cpu()
    for label in found.labels.tolist():
        _ = runtime.names[label]
