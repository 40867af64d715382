"""Draws and indexes the images of later pieces beside the first: `python -m benchmarks.gpu.prepare CONFIG.json`."""

import json
import sys
from pathlib import Path

from benchmarks.train_step import COPIES, with_data
from data import load_index


def main(path: str) -> None:
    """Scenes of the whole loops, `images` of them, and the data of the trainings: `data`, YAML files."""
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    if config["images"]:
        for copies in (1, COPIES):
            with_data(Path(config["work"]), config["imgsz"], 1, config["images"], copies)
    for data in config["data"]:
        for split in ("train", "val", "test"):
            load_index(data, split)


if __name__ == "__main__":
    main(sys.argv[1])
