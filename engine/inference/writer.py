"""Result files of detect.py: images, videos, label rows, crops, JSON, CSV; each is written atomically."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.inference.config import DetectConfig
from engine.inference.detections import ImageDetections
from engine.inference.writing.ids import ResultIds
from engine.inference.writing.names import UniqueStems, class_folders
from engine.inference.writing.rows import RowFile, csv_rows, json_rows, label_rows_of
from engine.inference.writing.video import NO_H264, has_h264
from engine.inference.writing.videos import Videos
from utils.files import write_bytes
from utils.reporting.draw import WRITABLE_SUFFIXES, draw_detections
from utils.reporting.picture_file import write_picture
from utils.reporting.run_log import increment_dir


class ResultWriter:
    """Writes detections. The folder is created with the first image, so that an early error leaves none behind.

    As a context it closes what it writes at the end; after an error it removes what is unfinished, so that files of an
    earlier run with the same names stay whole. `add` uses nothing but this object: one thread at a time may call it.
    `folder` is None before the first image, and if nothing is to be saved. ids: see `writing.ids`.
    """

    def __init__(self, config: DetectConfig, names: Sequence[str], ids: ResultIds | None = None) -> None:
        self.config, self.names, self.folders = config, names, class_folders(names)
        self.ids = ids or ResultIds(names)
        self.folder: Path | None = None
        self.stem_of = UniqueStems()
        self.written: Counter[str] = Counter()
        self.videos = Videos(lambda: self.folder, config.vid_stride)
        self.json: RowFile | None = None
        self.csv: RowFile | None = None

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.drop_unfinished()

    def add(self, found: ImageDetections, maps: Mapping[str, np.ndarray] | None = None) -> None:
        """Write the detections of one image, or of one frame of a video or stream; maps: of `--explain`, by name."""
        config = self.config
        if not config.saves_anything:
            return
        if self.folder is None:
            self._begin()
        frame = found.frame
        stem = self.stem_of(frame.path, frame.stem)
        numbered = stem
        if frame.kind == "stream":  # no files of other names are in this run
            numbered = f"{stem}_{frame.index}"
        elif not frame.is_still and (config.save_txt or config.save_crop or maps):
            numbered = self.stem_of(f"{frame.path}/{stem}_{frame.index}.frame")  # not that of an image `<video>_<n>`
        if config.save_txt:
            write_bytes(self.folder / "labels" / f"{numbered}.txt", label_rows_of(found, config.save_conf).encode())
            self.written["label files"] += 1
        if config.save_crop:
            self.written["crops"] += write_crops(self.folder / "crops", numbered, found, self.folders)
        for name, picture in (maps or {}).items():
            write_picture(self.folder / "explain" / f"{numbered}_{name}.jpg", picture)
            self.written["heat maps"] += 1
        if self.json:
            self.json.add_json(json_rows(found, self.ids))
        if self.csv:
            self.csv.add(csv_rows(found))
        if not config.nosave:
            self._draw(found, stem)

    def _begin(self) -> None:
        self.folder = increment_dir(self.config.project, self.config.name, self.config.exist_ok)
        if self.config.save_json:
            self.json = RowFile.json(self.folder / "predictions.json")
        if self.config.save_csv:
            self.csv = RowFile.csv(self.folder / "predictions.csv")

    def _draw(self, found: ImageDetections, stem: str) -> None:
        drawn = draw_detections(found.image, found, self.names, self.config.style, found.ids)
        if not found.frame.is_still:
            self.videos.add(found.frame, stem, drawn)
            return
        suffix = Path(found.path).suffix.lower()
        write_picture(self.folder / f"{stem}{suffix if suffix in WRITABLE_SUFFIXES else '.jpg'}", drawn)
        self.written["pictures"] += 1

    def close(self) -> None:
        """Finish videos, JSON and CSV. Raises `UserError` if that fails."""
        self.videos.close()
        if self.videos.finished:
            self.written["videos"] = self.videos.finished
        if self.json:
            self.json.close()
            self.written["JSON rows"], self.json = self.json.count, None
        if self.csv:
            self.csv.close()
            self.written["CSV rows"], self.csv = self.csv.count, None

    def drop_unfinished(self) -> None:
        """Remove unfinished videos, JSON and CSV; after `close` there are none."""
        self.videos.drop()
        for rows in filter(None, (self.json, self.csv)):
            rows.drop()
        self.json = self.csv = None

    def summary(self) -> str:
        """The folder and the number of results of each kind."""
        if self.folder is None:
            return "nothing saved (--nosave)" if self.config.nosave else "nothing saved"
        note = f"; {NO_H264}" if self.written["videos"] and not has_h264() else ""
        return f"{self.folder} ({', '.join(f'{what}: {n}' for what, n in self.written.items())}){note}"


def write_crops(folder: Path, stem: str, found: ImageDetections, folders: Sequence[str]) -> int:
    """`ImageDetections.crops` as `<folder>/<class>/<stem>_<n>.jpg`, n as in the label rows, or
    `id<n>` of an object that a tracker follows.

    folders: of the classes, see `class_folders`. Returns the number of crops.
    """
    for n, (crop, each) in enumerate(zip(found.crops(), found, strict=True)):
        number = n if each.id is None else f"id{each.id}"
        write_picture(folder / folders[each.label] / f"{stem}_{number}.jpg", crop)
    return len(found)
