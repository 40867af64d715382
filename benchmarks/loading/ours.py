"""Our training loader as `benchmarks/loader.py` times it, and where the time of one sample goes.

    python -m benchmarks.loading.ours CONFIG.json
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.loading.clock import serve
from data import load_index
from data.augment import AugmentConfig
from data.colour import adjust_hsv
from data.images import REDUCED
from data.loader import Loader, pack_labels, train_loader
from data.pool import LEAST, DecodedPool
from data.render import Scratch, render_layer
from utils.structures import Batch

STAGES = ("plan and labels", "decode", "mosaic and affine", "HSV", "to the batch")


def main(path: str) -> None:
    """Serve rounds, or print the profile where the configuration asks for it."""
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if config.get("profile"):
        print(json.dumps(profile(config)))
        return
    serve(Epochs(make_loader(config, config["workers"])), len, program="ours", torch=torch.__version__,
          opencv=cv2.__version__)


class Epochs:
    """A loader of which each pass is the next epoch, and begins with nothing decoded unless all is cached."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.epoch = loader, 0

    def __iter__(self) -> Iterator[Batch]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        if self.loader.dataset.store.pool is not None:
            self.loader.dataset.store.pool.clear()
        return iter(self.loader)


def make_loader(config: dict[str, Any], workers: int) -> Loader:
    """The loader of a training, with v8's augmentation."""
    index = load_index(config["data"], "train", cache=False)
    loader = train_loader(index, config["imgsz"], config["batch"], AugmentConfig(), workers=workers,
                          cache=config["cache"])
    store = loader.dataset.store
    if store.pool is not None:  # with room for the epoch, each of its images is decoded once: as in a large dataset
        store.pool = DecodedPool(len(store.records), int(4 * store.held.prod(1).sum()) + LEAST * 3 * config["imgsz"]**2)
    return loader


def profile(config: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of CPU per sample, stage by stage, of an epoch that begins with nothing decoded, and of
    decoding one file alone. The stages are those of `DetectionDataset.draw`, one by one."""
    loader = make_loader({**config, "cache": None}, 0)
    dataset, scratch, size = loader.dataset, Scratch(), config["imgsz"]
    room = np.empty((config["batch"], 3, size, size), np.uint8)
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    whole, floor, waiting = [], [], []
    loading = 0.0
    for index in range(len(dataset)):  # the pool's memory is touched once, when a training begins
        dataset.store.load(index)
    if dataset.store.pool is not None:
        dataset.store.pool.clear()

    def load(index: int):
        nonlocal loading
        since = time.process_time()
        loaded = dataset.store.load(index)
        loading += time.process_time() - since
        return loaded

    for position in range(len(dataset)):
        loading, marks = 0.0, [time.process_time()]
        plan, found, image_id = dataset.plan((0, position))
        marks.append(time.process_time())
        frame, _ = render_layer(plan.layers[0], size, load, scratch=scratch, name="frame")
        marks.append(time.process_time())
        image = adjust_hsv(frame, plan.hsv, scratch.take("image", size, size, 3))
        marks.append(time.process_time())
        cv2.split(image, list(room[position % config["batch"]]))
        waiting.append(found)
        if len(waiting) == config["batch"]:
            pack_labels(waiting)
            waiting.clear()
        marks.append(time.process_time())
        dataset.store.settled()
        steps = np.diff(marks)
        for name, value in zip(STAGES, (steps[0], loading, steps[1] - loading, steps[2], steps[3]), strict=True):
            stages[name].append(1e3 * value)
        whole.append(1e3 * (marks[-1] - marks[0]))
        data = np.fromfile(dataset.records[dataset.order[position]].path, np.uint8)
        since = time.process_time()
        cv2.imdecode(data, REDUCED[1])
        floor.append(1e3 * (time.process_time() - since))
    return {"stages": {name: float(np.mean(values)) for name, values in stages.items()},
            "medians": {name: float(np.median(values)) for name, values in stages.items()},
            "sample": float(np.mean(whole)), "median_sample": float(np.median(whole)),
            "floor": float(np.mean(floor)), "median_floor": float(np.median(floor)), "samples": len(whole)}


if __name__ == "__main__":
    main(sys.argv[1])
