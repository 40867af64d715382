"""Rows of detections: YOLO's label rows, COCO's JSON, CSV; and files of rows that grow while a run goes on."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from engine.inference.detections import ImageDetections
from engine.inference.writing.ids import ResultIds
from utils.boxes import xyxy_to_cxcywh
from utils.errors import UserError
from utils.files import replacing

CSV_HEAD = ("image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2", "id")


def label_rows(labels: Sequence[int], boxes: Sequence[Sequence[float]], scores: Sequence[float] | None = None,
               ids: Sequence[int] | None = None) -> str:
    """YOLO's rows `class cx cy w h [confidence] [id]` of one image.

    labels (N,); boxes (N, 4) centre, width and height as fractions of the image; scores (N,) and ids (N,), of the
    objects that a tracker follows (-1: not yet), are the last columns if given.
    """
    ends = [[f"{score:.6g}"] for score in scores] if scores is not None else [[] for _ in labels]
    if ids is not None:
        ends = [[*end, str(number)] for end, number in zip(ends, ids, strict=True)]
    return "".join(" ".join([str(label), *(f"{value:.6g}" for value in box), *end]) + "\n"
                   for label, box, end in zip(labels, boxes, ends, strict=True))


def label_rows_of(found: ImageDetections, with_scores: bool) -> str:
    """`label_rows` of an image."""
    height, width = found.image.shape[:2]
    boxes = xyxy_to_cxcywh(found.boxes) / found.boxes.new_tensor((width, height, width, height))
    return label_rows(found.labels.tolist(), boxes.tolist(), found.scores.tolist() if with_scores else None,
                      None if found.ids is None else found.ids.tolist())


def json_rows(found: ImageDetections, naming: ResultIds) -> list[dict[str, Any]]:
    """Rows like COCO results: file_name, image_id, category_id, category, bbox (left, top, width, height px), score.

    Rows of a video or stream have `frame` too, from 0; where objects are tracked, `track_id`, null for
    those that are new.
    """
    frame = found.frame
    file_name, image_id, category_ids = naming.of(frame)
    head = {"file_name": file_name, "image_id": image_id, **({} if frame.is_still else {"frame": frame.index})}
    tracks = [{}] * len(found) if found.ids is None else [{"track_id": each.id} for each in found]
    return [{**head, "category_id": category_ids[row["category_id"]], "category": found.names[row["category_id"]],
             "bbox": row["bbox"], "score": row["score"], **track}
            for row, track in zip(found.to_coco(image_id), tracks, strict=True)]


def csv_rows(found: ImageDetections) -> list[str]:
    """Rows of `CSV_HEAD`; frame is empty for a picture, id where nothing is tracked."""
    number = "" if found.frame.is_still else found.frame.index
    return [_csv_row((found.path, number, each.label, each.name, f"{each.score:.5f}",
                      *(f"{value:.2f}" for value in each.box), "" if each.id is None else each.id))
            for each in found]


def _csv_row(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class RowFile:
    """A text file that grows under a temporary name, so that memory does not; `close` renames it, `drop` removes it.

    head, between, end: text around the rows. Raises `UserError` if it cannot be written.
    """

    def __init__(self, path: Path, head: str, between: str = "", end: str = "") -> None:
        self.path, self.between, self.end, self.count = path, between, end, 0
        self._replacing = replacing(path)
        try:
            self._file: TextIO = self._replacing.__enter__().open("w", encoding="utf-8", errors="backslashreplace",
                                                                 newline="\n")
        except OSError as error:
            raise self._unwritable(error) from None
        self._write(head)

    @classmethod
    def json(cls, path: Path) -> "RowFile":
        """A JSON list, a row per line."""
        return cls(path, "[", ",\n", "]\n")

    @classmethod
    def csv(cls, path: Path) -> "RowFile":
        """A CSV with `CSV_HEAD`."""
        return cls(path, ",".join(CSV_HEAD) + "\n")

    def add(self, rows: Sequence[str]) -> None:
        """Add rows as text."""
        for row in rows:
            self._write(self.between * (self.count > 0) + row)
            self.count += 1

    def add_json(self, rows: Sequence[dict[str, Any]]) -> None:
        self.add([json.dumps(row) for row in rows])

    def close(self) -> None:
        self._write(self.end)
        try:
            self._file.close()
            self._replacing.__exit__(None, None, None)
        except OSError as error:
            raise self._unwritable(error) from None

    def drop(self) -> None:
        """Remove what was written; an older file of this name stays."""
        self._file.close()
        self._replacing.__exit__(InterruptedError, InterruptedError(), None)

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot be written: {error.strerror}", "unwritable-file")
