"""A checkpoint, pictures, a video and a data set small enough to make in every test run."""

from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from data.shapes.generate import Scene, render
from models import build_model
from utils.checkpoint import save_checkpoint

NAMES = ["circle", "square", "traffic light"]
CAFFE = {"scale": 255, "mean": [104, 117, 123], "std": [58, 57, 57], "order": "bgr"}
ROWS = {"backbone": [[-1, 1, "Conv", [8 * min(k, 4), 3, 2]] for k in range(1, 6)],
        "head": [[[2, 3, 4], 1, "Detect", ["nc"]]]}
# Models whose frames are no letterboxed ones of any size: a small YOLOv8 with what a model file may ask of its input.
FITS = {
    "stretch": {**ROWS, "frame": {"fit": "stretch", "size": [60, 100], "shrink": "linear"}, "pixels": CAFFE},
    "shortest": {**ROWS, "frame": {"fit": "shortest", "short": 64, "long": 107, "pad": "corner",
                                   "fill": [124, 116, 104]}},
}


def tiny_model(name: str | dict = "yolov8n", names: list[str] | None = None) -> torch.nn.Module:
    """An untrained detector whose activations and scores spread as a trained one's do, so that it finds something."""
    torch.manual_seed(0)
    names = names or NAMES
    model = build_model(name, num_classes=len(names), names=names)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the plain mean of what it sees
    size = model.frame.size or (128, 128)
    scenes = np.stack([render(0, "train", number, size, Scene())[0] for number in range(4)])
    scenes = torch.from_numpy(scenes[..., ::-1].copy()).permute(0, 3, 1, 2)
    images = torch.cat((scenes, torch.randint_like(scenes, 256)))  # tests show it both
    last = [m for m in model.head.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]

    def spread(conv, inputs, output) -> None:
        conv.weight.mul_(1.5 / output.std())
        conv.bias.fill_(-1.0)
        if conv.out_channels == 64:  # the box branch of YOLOv8: short distances, so that boxes lie inside the picture
            conv.bias.copy_(-torch.arange(16).repeat(4) / 2)

    with torch.no_grad():
        model.train()(images)
        hooks = [conv.register_forward_hook(spread) for conv in last]
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model


def tiny_checkpoint(path: Path, name: str | dict = "yolov8n") -> Path:
    model = tiny_model(name)
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, path)
    return path


def picture(path: Path, number: int = 0, size: tuple[int, int] = (96, 128)) -> Path:
    """A built-in scene of (height, width) pixels as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), render(0, "val", number, size, Scene())[0])
    return path


def video(path: Path, frames: int = 4, size: tuple[int, int] = (64, 96)) -> Path:
    """An mp4 at 10 frames per second, each frame another shade around a built-in scene."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size[::-1])
    scene = render(0, "val", 1, size, Scene())[0]
    for number in range(frames):
        writer.write(np.roll(scene, number * 8, axis=1))
    writer.release()
    return path


def tiny_data(folder: Path, train: int, val: int, test: int = 2, size: int | list[int] = 64) -> Path:
    """Write tiny.yaml, of so many built-in scenes that are drawn when they are first asked for; returns the folder."""
    content = {"format": "shapes", "path": str(folder / "shapes"), "train": train, "val": val, "test": test,
               "size": size, "seed": 0}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder
