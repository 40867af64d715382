"""Small datasets on disk for the tests of `data`."""

import json
from pathlib import Path

import cv2
import numpy as np
import yaml

HEIGHT, WIDTH = 60, 100


def image(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    assert cv2.imwrite(str(path), pixels)
    return path


def config(folder: Path, **words) -> Path:
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump({"path": str(folder), **words}))
    return path


def yolo(folder: Path, labels: dict[str, str | None], **words) -> Path:
    """labels: image name -> text of its label file, None for no file."""
    for name, text in labels.items():
        image(folder / "images" / "train" / name)
        if text is not None:
            file = (folder / "labels" / "train" / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return config(folder, **{"train": "images/train", "names": ["cat", "dog"], **words})


def coco(folder: Path, annotations: list[dict], **words) -> Path:
    """Two images, ids 7 and 5, and categories 3 (dog) and 1 (cat)."""
    for name in ("a.jpg", "b.jpg"):
        image(folder / "train2017" / name)
    content = {"images": [{"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH}
                          for i, n in ((7, "a.jpg"), (5, "b.jpg"))],
               "annotations": annotations, "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}]}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    return config(folder, **{"train": "annotations/instances_train2017.json", **words})


def xml(objects: str, head: str = "") -> str:
    return f"<annotation>{head}{objects}</annotation>"


def xml_object(name: str, *corners: object, difficult: int = 0) -> str:
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def voc(folder: Path, labels: dict[str, str | None], **words) -> Path:
    """labels: stem -> XML, None for no file."""
    for sub in ("Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for stem, text in labels.items():
        image(folder / "JPEGImages" / f"{stem}.jpg")
        if text is not None:
            (folder / "Annotations" / f"{stem}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(labels) + "\n")
    return config(folder, **{"train": "ImageSets/Main/train.txt", "names": ["cat", "dog"], **words})


def voc_devkit(folder: Path, years: dict[str, dict[str, dict[str, str | None]]]) -> Path:
    """The folder of VOC's development kit; years: VOC<year> -> image set -> stem -> XML, None for no file."""
    for year, sets in years.items():
        root = folder / "VOCdevkit" / year
        for image_set, labels in sets.items():
            for stem, text in labels.items():
                image(root / "JPEGImages" / f"{stem}.jpg")
                if text is not None:
                    (root / "Annotations").mkdir(exist_ok=True)
                    (root / "Annotations" / f"{stem}.xml").write_text(text)
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Main" / f"{image_set}.txt").write_text("\n".join(labels) + "\n")
    return folder / "VOCdevkit"


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
