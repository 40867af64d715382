"""Training data of both sides: one resident batch in a file, or a folder of images in YOLO format."""

from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from benchmarks.peers import yolo_rows
from data import load_index
from utils.structures import PackedTargets, Targets, pack_targets

NAMES = ["circle", "square", "triangle", "star", "cross"]  # of the built-in data
BOXES = 20  # in every image


def save_batch(path: Path, batch: int, imgsz: int) -> None:
    """Write images (B, 3, S, S) uint8 noise and `BOXES` boxes in each, mostly small, as arrays.

    classes (N,), boxes (N, 4) xywh of the centre as fractions of the image, rows (N,): the image of each box.
    """
    rng = np.random.default_rng(0)
    count = batch * BOXES
    sides = np.exp(rng.uniform(np.log(0.015), np.log(0.4), (count, 2)))
    centres = sides / 2 + rng.random((count, 2)) * (1 - sides)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=rng.integers(0, 256, (batch, 3, imgsz, imgsz), dtype=np.uint8),
             classes=rng.integers(0, len(NAMES), count), boxes=np.concatenate((centres, sides), 1),
             rows=np.repeat(np.arange(batch), BOXES))


def load_batch(path: Path, imgsz: int) -> tuple[Tensor, PackedTargets]:
    """The images and targets of `save_batch` as this project's models take them."""
    with np.load(path) as stored:
        images, rows = torch.from_numpy(stored["images"]), stored["rows"]
        centre, side = np.split(stored["boxes"] * imgsz, 2, 1)
        boxes = torch.from_numpy(np.concatenate((centre - side / 2, centre + side / 2), 1)).float()
        classes = torch.from_numpy(stored["classes"])
    of = [torch.from_numpy(rows == row) for row in range(len(images))]
    return images, pack_targets([Targets(boxes[mine], classes[mine]) for mine in of])


def draw_data(folder: Path, images: int, side: int, copies: int = 1) -> Path:
    """Scenes of the built-in data, once as they are and with labels in YOLO's format; the YAML that names them.

    copies: how often each image is in the data, under other names.
    """
    scenes = {"format": "shapes", "path": str(folder.resolve()), "size": [side * 3 // 4, side], "train": images,
              "val": 8, "test": 8, "scene": {"objects": [BOXES // 2, BOXES]}}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = folder / "scenes.yaml"
    drawn.write_text(yaml.safe_dump(scenes), encoding="utf-8")
    for split in ("train", "val"):
        for record in load_index(drawn, split).records:
            path = Path(record.path)
            labels = path.parents[1] / "labels"
            labels.mkdir(exist_ok=True)
            (labels / f"{path.stem}.txt").write_text(yolo_rows(record), encoding="utf-8")
    place = "train"
    if copies > 1:
        place = f"train-x{copies}"
        for path in [*folder.glob("train/images/*"), *folder.glob("train/labels/*.txt")]:
            (folder / place / path.parent.name).mkdir(parents=True, exist_ok=True)
            for number in range(copies):
                link = folder / place / path.parent.name / f"{path.stem}-{number}{path.suffix}"
                if not link.exists():
                    link.hardlink_to(path)
    yolo = folder / f"{place}.yaml"
    content = {"path": str(folder.resolve()), "train": f"{place}/images", "val": "val/images", "names": NAMES}
    yolo.write_text(yaml.safe_dump(content), encoding="utf-8")
    return yolo
