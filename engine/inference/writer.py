"""Result files of detect.py: images, videos, label rows, crops, JSON; each is written atomically."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.sources import Frame
from utils.boxes import xyxy_to_cxcywh
from utils.errors import UserError
from utils.files import prefix, sweep, write_bytes
from utils.reporting.draw import WRITABLE_SUFFIXES, Style, draw_detections
from utils.reporting.picture_file import write_picture
from utils.reporting.run_log import increment_dir
from utils.structures import Detections

# File names that Windows reserves for devices.
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
LARGEST_SIDE = 8190  # pixels, of MPEG-4


def label_rows(labels: Sequence[int], boxes: Sequence[Sequence[float]], scores: Sequence[float] | None = None) -> str:
    """YOLO's rows `class cx cy w h [confidence]` of one image.

    labels (N,); boxes (N, 4) centre, width and height as fractions of the image; scores (N,), the last column if given.
    """
    rows = zip(labels, boxes, [()] * len(labels) if scores is None else [(score,) for score in scores], strict=True)
    return "".join(" ".join([str(label), *(f"{value:.6g}" for value in (*box, *score))]) + "\n"
                   for label, box, score in rows)


def json_rows(found: Detections, names: Sequence[str], path: str, frame: int | None = None) -> list[dict[str, Any]]:
    """Rows like COCO results: file_name, image_id, category_id, category, bbox (left, top, width, height px), score.

    image_id: the file name without suffix, as a number if it is one, as in COCO; category_id: the model's class, from
    0. Rows of a video have `frame` too, from 0.
    """
    stem = Path(path).stem
    head = {"file_name": path, "image_id": int(stem) if stem.isdecimal() else stem}
    if frame is not None:
        head["frame"] = frame
    return [{**head, "category_id": label, "category": names[label],
             "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)], "score": round(score, 5)}
            for (x1, y1, x2, y2), label, score in
            zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)]


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, json.dumps(content).encode())


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each class: unique, and valid on every file system.

    Characters other than letters, digits, space, dot and dash become underscores.
    """
    folders: list[str] = []
    taken: set[str] = set()
    for label, name in enumerate(names):
        folder = shorten(re.sub(r"[^\w .-]", "_", name).strip(" ."), 100) or str(label)
        if folder.partition(".")[0].strip().upper() in RESERVED or folder.lower() in taken:
            folder = f"{folder}_{label}"
        taken.add(folder.lower())
        folders.append(folder)
    return folders


def shorten(name: str, limit: int = 180) -> str:
    """A file name of at most `limit` bytes; file systems allow 255, of which numbers and suffixes need some."""
    content = name.encode("utf-8", "surrogateescape")
    return name if len(content) <= limit else content[:limit].decode("utf-8", "ignore").strip(" .")


def write_crops(folder: Path, stem: str, found: ImageDetections, folders: Sequence[str]) -> int:
    """`ImageDetections.crops` as `<folder>/<class>/<stem>_<n>.jpg`, n as in the label rows.

    folders: of the classes, see `class_folders`. Returns the number of crops.
    """
    for n, (crop, label) in enumerate(zip(found.crops(), found.labels.tolist(), strict=True)):
        write_picture(folder / folders[label] / f"{stem}_{n}.jpg", crop)
    return len(found)


class UniqueStems:
    """File stems for results, unique also for inputs of the same name (`a/1.jpg`, `b/1.jpg`, `a/1.png`)."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.taken: set[str] = set()
        self.next: Counter[str] = Counter()  # per stem: the last number tried

    def __call__(self, path: str) -> str:
        if path not in self.given:
            base = stem = shorten(Path(path).stem)
            while stem in self.taken:
                self.next[base] += 1
                stem = f"{base}_{self.next[base] + 1}"
            self.taken.add(stem)
            self.given[path] = stem
        return self.given[path]


class VideoFile:
    """An mp4 that is written under a temporary name; `close` renames it, `drop` removes it.

    Raises `UserError` if OpenCV cannot write it.
    """

    def __init__(self, path: Path, fps: float, height: int, width: int) -> None:
        shrink = min(1.0, LARGEST_SIDE / max(height, width))
        self.inner = max(round(width * shrink), 1), max(round(height * shrink), 1)
        self.size = tuple(side + side % 2 for side in self.inner)  # OpenCV drops an odd last column
        self.path, self.frames = path, 0
        self.part = path.with_name(f"{prefix('video')}part{path.suffix}")  # not every OpenCV takes other than ASCII
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        fps = round(fps, 2 if fps > 60 else 3) if math.isfinite(fps) and fps > 0 else 30.0  # of 16 bits
        self.writer = cv2.VideoWriter(str(self.part), cv2.VideoWriter.fourcc(*"mp4v"), fps, self.size)
        if not self.writer.isOpened():
            self.part.unlink(missing_ok=True)
            raise UserError(f"{path}: this OpenCV cannot write mp4 video here; use --nosave, or check folder and disk",
                            "unwritable-file")

    def write(self, image: np.ndarray) -> None:
        """Add one HWC BGR uint8 frame; frames of another size are scaled to that of the first."""
        if image.shape[1::-1] != self.inner:
            image = cv2.resize(image, self.inner)
        if self.inner != self.size:
            right, below = (outer - side for outer, side in zip(self.size, self.inner, strict=True))
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        self.writer.write(image)
        self.frames += 1

    def close(self) -> None:
        self.writer.release()
        if not self.part.is_file() or not self.part.stat().st_size:
            raise UserError(f"{self.path}: the video could not be finished; is the disk full?", "unwritable-file")
        self.part.replace(self.path)

    def drop(self) -> None:
        self.writer.release()
        self.part.unlink(missing_ok=True)


class ResultWriter:
    """Writes detections. The folder is created with the first image, so that an early error leaves none behind.

    `folder` is None before that, and if nothing is to be saved.
    """

    def __init__(self, config: DetectConfig, names: Sequence[str]) -> None:
        self.config, self.names, self.folders = config, names, class_folders(names)
        self.style = Style(config.line_thickness, not config.hide_labels, not config.hide_conf)
        self.folder: Path | None = None
        self.stem_of = UniqueStems()
        self.rows: list[dict[str, Any]] = []
        self.written: Counter[str] = Counter()
        self.video: VideoFile | None = None
        self.last: tuple[str, int] = ("", 0)  # path and index of the previous frame

    def add(self, found: ImageDetections, maps: Mapping[str, np.ndarray] | None = None) -> None:
        """Write the detections of one image, or of one frame of a video; maps: of `--explain`, by name."""
        config = self.config
        if not config.saves_anything:
            return
        self.folder = self.folder or increment_dir(config.project, config.name, config.exist_ok)
        frame, path, image = found.frame, found.path, found.image
        number = frame.index if frame.kind == "video" else None
        stem = self.stem_of(path)
        numbered = stem
        if number is not None and (config.save_txt or config.save_crop or maps):
            numbered = self.stem_of(f"{path}/{stem}_{number}.frame")  # not that of an image called `<video>_<number>`
        if config.save_txt:
            height, width = image.shape[:2]
            boxes = xyxy_to_cxcywh(found.boxes) / found.boxes.new_tensor((width, height, width, height))
            rows = label_rows(found.labels.tolist(), boxes.tolist(),
                              found.scores.tolist() if config.save_conf else None)
            write_bytes(self.folder / "labels" / f"{numbered}.txt", rows.encode())
            self.written["label files"] += 1
        if config.save_crop:
            self.written["crops"] += write_crops(self.folder / "crops", numbered, found, self.folders)
        for name, picture in (maps or {}).items():
            write_picture(self.folder / "explain" / f"{numbered}_{name}.jpg", picture)
            self.written["heat maps"] += 1
        if config.save_json:
            self.rows += json_rows(found, self.names, path, number)
        if not config.nosave:
            drawn = draw_detections(image, found, self.names, self.style, found.ids)
            if number is None:
                self._add_picture(path, stem, drawn)
            else:
                self._add_frame(frame, stem, drawn)

    def _add_picture(self, path: str, stem: str, drawn: np.ndarray) -> None:
        suffix = Path(path).suffix.lower()
        write_picture(self.folder / f"{stem}{suffix if suffix in WRITABLE_SUFFIXES else '.jpg'}", drawn)
        self.written["pictures"] += 1

    def _add_frame(self, frame: Frame, stem: str, drawn: np.ndarray) -> None:
        if self.video is None or self.last[0] != frame.path or frame.index <= self.last[1]:
            self._finish_video()
            self.video = VideoFile(self.folder / f"{stem}.mp4", frame.fps / self.config.vid_stride, *drawn.shape[:2])
        self.last = frame.path, frame.index
        self.video.write(drawn)

    def _finish_video(self) -> None:
        if self.video is not None:
            self.video.close()
            self.video = None
            self.written["videos"] += 1

    def close(self) -> None:
        """Finish the last video and write the JSON. Raises `UserError` if that fails."""
        self._finish_video()
        if self.config.save_json and self.folder:
            write_json(self.folder / "predictions.json", self.rows)
            self.written["JSON rows"] = len(self.rows)

    def drop_unfinished(self) -> None:
        """Remove an unfinished video; after `close` there is none."""
        if self.video is not None:
            self.video.drop()

    def summary(self) -> str:
        """The folder and the number of results of each kind."""
        if self.folder is None:
            return "nothing saved (--nosave)"
        return f"{self.folder} ({', '.join(f'{what}: {n}' for what, n in self.written.items())})"
