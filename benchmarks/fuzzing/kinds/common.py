"""Shared by the kinds: images, a data set, and checks."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from benchmarks.fuzzing.kind import Wrong
from data import Index, ScanReport, load_index
from data.labels.scan_report import KINDS as FINDINGS

SIDE = 64
NAMES = ["person", "car", "traffic light"]
LOST = {kind for kind, (_, done) in FINDINGS.items() if done.startswith(("skipped", "taken once", "left out"))}
# Findings that take all rows of a file with them.
FILES = {"missing_image", "corrupt_image", "large_image", "unread_image", "special_file", "leftover", "repeated_image",
         "corrupt_label", "closed_folder"}


def picture(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(height, width, 3) uint8, smooth enough for every codec, another one for each number."""
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_pictures(folder: Path, count: int = 2) -> list[Path]:
    """0.jpg, 1.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(cv2.imencode(".jpg", picture(number))[1].tobytes())
    return paths


def rows(rng: np.random.Generator, count: int) -> list[list[Any]]:
    """Rows of YOLO's txt: class, centre, width, height."""
    return [
        [int(rng.integers(len(NAMES))), *np.round(rng.uniform(0.2, 0.8, 2), 6), *np.round(rng.uniform(0.02, 0.4, 2), 6)]
        for _ in range(count)
    ]


def write_yolo(folder: Path, rng: np.random.Generator, count: int = 2) -> dict[str, Any]:
    """images/train and labels/train; the content of a data YAML for it."""
    for path in write_pictures(folder / "images" / "train", count):
        label = folder / "labels" / "train" / f"{path.stem}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows(rng, 3)))
    return {"train": "images/train", "val": "images/train", "names": list(NAMES)}


def write_yaml(folder: Path, content: Any) -> Path:
    """data.yaml."""
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def read(folder: Path, split: str = "train", **options: Any) -> Index:
    """The split of data.yaml in the working directory, without a cache; the records are sound."""
    index = load_index("data.yaml", split, **{"cache": False, **options})
    check_sound(index)
    return index


def check_sound(index: Index) -> None:
    """Records that training may rely on: finite boxes with area inside their image (COCO's own to a pixel), known
    classes."""
    for record in index.records:
        b, frame = record.boxes, (record.width, record.height) * 2
        if record.width < 1 or record.height < 1:
            raise Wrong(f"record without size: {record.path} {record.width}x{record.height}")
        if not np.isfinite(b).all() or (b < -1.01).any() or (b > np.array(frame) + 1.01).any():
            raise Wrong(f"box outside its image: {b.tolist()[:3]} in {frame[:2]}")
        if ((b[:, 2:] - b[:, :2]) <= 0).any():
            raise Wrong(f"box without area: {b.tolist()[:3]}")
        if len(record) and not (record.labels.min() >= 0 and record.labels.max() < len(index.names)):
            raise Wrong(f"label that has no name: {record.labels.tolist()[:5]} of {len(index.names)}")
    index.report.format()
    index.coco()


def check_counted(report: ScanReport, written: int) -> None:
    """Every row that was written is there or counted among those left out."""
    if FILES & set(report.findings):
        return
    lost = sum(report.count(kind) for kind in LOST)
    if report.boxes + report.ignored + lost < written:
        raise Wrong(
            f"rows lost uncounted: {written} written, {report.boxes} boxes + {report.ignored} ignored + {lost} "
            f"told to be left out: {report.format()[:600]}"
        )
