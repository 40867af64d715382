"""Data sets of one small COCO file."""

import json
from pathlib import Path

from data.index import Index, load_index
from tests.data import makers

SIDE = 128
CATEGORIES = [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}]


def write(folder: Path, images: list[dict], annotations: list, categories: list[dict] = CATEGORIES, **words) -> Path:
    """A data YAML of one COCO file; its pictures are those of the images' names, but for `gone*`."""
    for image in images:
        path = folder / "images" / image["file_name"]
        if not image["file_name"].startswith("gone") and not path.exists():
            makers.image(path, SIDE, SIDE)
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "truth.json").write_text(json.dumps(content))
    return makers.config(folder, train={"images": "images", "annotations": "truth.json"}, **words)


def images_of(ids: list) -> list[dict]:
    return [{"id": i, "file_name": f"{k}.bmp", "height": SIDE, "width": SIDE} for k, i in enumerate(ids)]


def row(number, image, box, category=9, **words) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3],
            "iscrowd": 0, **words}


def own(folder: Path) -> dict:
    return json.loads((folder / "truth.json").read_text())


def load(yaml: Path, **words) -> Index:
    return load_index(yaml, "train", cache=False, **words)


BOXES = [[10, 10, 20, 20], [50, 40, 32, 32], [100, 100, 60, 60], [30, 60, 0, 0], [5, 5, 96, 96], [70, 70, 30, 2]]
