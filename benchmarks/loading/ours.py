"""Our training loader, timed by `benchmarks/loader.py`, and a profile of one sample.

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

import data.augment.render
import data.loading.dataset
from benchmarks.loading.clock import UNCOUNTED, serve
from data import load_index
from data.augment.policies import policy_type
from data.labels.records import Record
from data.loading.build import train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from utils.structures import Batch


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
    """The loader of a training, with the defaults of a policy: those of yolo are v8's augmentation."""
    index = load_index(config["data"], "train", cache=False)
    return train_loader(index, config["imgsz"], policy_type(config.get("policy", "yolo"))(),
                        LoaderConfig(config["batch"], workers=workers, cache=config["cache"]))


def profile(config: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of CPU per sample, stage by stage, in the batches of an epoch that begins with nothing decoded, and
    of decoding one file alone."""
    loader = make_loader({**config, "cache": None}, 0)
    epochs, watch = Epochs(loader), Stopwatch()
    for _ in range(UNCOUNTED):
        for _ in epochs:
            pass
    store = loader.dataset.store
    samples = data.loading.dataset
    for name, owner, word in (("plan", type(loader.dataset.augment), "draw"), ("labels", samples, "plan_labels"),
                              ("pixels", samples, "render_plan"), ("decode", store, "load"),
                              ("hsv", data.augment.render, "adjust_hsv"),
                              ("photometric", data.augment.render, "adjust_photometric")):
        watch.listen(name, owner, word)
    rows = []
    watch.start()
    for batch in epochs:
        spent = watch.read()
        colours = spent["hsv"] + spent["photometric"]
        inside = spent["decode"] + colours  # while pixels are drawn
        numbers = spent["plan"] + spent["labels"]
        row = {"plan and labels": numbers, "decode": spent["decode"], "geometry": spent["pixels"] - inside,
               "colours": colours, "to the batch": spent["whole"] - numbers - spent["pixels"]}
        rows.append({name: 1e3 * seconds / len(batch) for name, seconds in row.items()})
        watch.start()
    stages = {name: [row[name] for row in rows] for name in rows[0]}
    whole = [sum(row.values()) for row in rows]
    floor = [1e3 * decode_alone(record) for record in loader.dataset.records]
    return {"stages": {name: float(np.mean(values)) for name, values in stages.items()},
            "medians": {name: float(np.median(values)) for name, values in stages.items()},
            "sample": float(np.mean(whole)), "median_sample": float(np.median(whole)),
            "floor": float(np.mean(floor)), "median_floor": float(np.median(floor)), "samples": len(floor)}


class Stopwatch:
    """CPU seconds spent in functions, looked at from outside: the loader's own code runs as it is."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.since = 0.0

    def listen(self, name: str, owner: Any, word: str) -> None:
        """Add the time of each call of `owner.word` to `name`, as long as this process lives."""
        function = getattr(owner, word)

        def timed(*args: Any, **words: Any) -> Any:
            since = time.process_time()
            try:
                return function(*args, **words)
            finally:
                self.spent[name] += time.process_time() - since

        self.spent[name] = 0.0
        setattr(owner, word, timed)

    def start(self) -> None:
        """From here on."""
        self.spent = dict.fromkeys(self.spent, 0.0)
        self.since = time.process_time()

    def read(self) -> dict[str, float]:
        """What was spent since the start, in all under `whole`."""
        return {**self.spent, "whole": time.process_time() - self.since}


def decode_alone(record: Record) -> float:
    """CPU seconds of decoding an image's file that was read before."""
    content = np.fromfile(record.path, np.uint8)
    since = time.process_time()
    cv2.imdecode(content, cv2.IMREAD_COLOR)
    return time.process_time() - since


if __name__ == "__main__":
    main(sys.argv[1])
