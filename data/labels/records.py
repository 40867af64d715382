"""Records: path, size, id and labels of each image, known before any image is opened.

Legend: n images, M boxes of all images together, N boxes of one image. Boxes are xyxy in pixels of the original frame,
continuous: a box over the whole of a 640 x 480 image is (0, 0, 640, 480). Where an image is a window of a larger file
(`data.tiles`), its frame is that window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import overload

import numpy as np

LABEL_FIELDS = ("boxes", "labels", "ignore", "areas", "annotation_ids")  # one row per label
NO_POLYGON = np.zeros((0, 2), np.float32)
ENDS = {"path_ends": "paths", "ends": "labels", "polygon_ends": "polygon_points"}  # the array that each one cuts


@dataclass(slots=True)
class Record:
    """One image's place, size, id and labels as the dataset stores them.

    boxes (N, 4) float32 xyxy pixels of the original frame; labels (N,) int64 in [0, nc); ignore (N,) bool, True for
    crowds; areas (N,) float32 square pixels, of the object's mask where the dataset says so, of the box otherwise;
    annotation_ids (N,) int64, those of the dataset where it has some, 1..M otherwise.

    window: x1, y1, x2, y2 in whole pixels of the file's image, of which the record is that part; None for all of it.
    `height`, `width` and the boxes are then the window's own. full: (height, width) of the file's image where there is
    a window. polygons: an outline (k, 2) float32 per label in the frame of the boxes, k = 0 where it has none; None
    where they were not asked for.
    """

    path: str
    image_id: int
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray = field(default=None)  # type: ignore[assignment]
    areas: np.ndarray = field(default=None)  # type: ignore[assignment]
    annotation_ids: np.ndarray = field(default=None)  # type: ignore[assignment]
    window: tuple[int, int, int, int] | None = None
    full: tuple[int, int] | None = None
    polygons: list[np.ndarray] | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.boxes.shape != (n, 4):
            raise ValueError(f"{self.path}: expected boxes ({n}, 4), got {self.boxes.shape}")
        if self.ignore is None:
            self.ignore = np.zeros(n, bool)
        if self.areas is None:
            self.areas = box_areas(self.boxes)
        if self.annotation_ids is None:
            self.annotation_ids = np.arange(1, n + 1)
        if (self.window is None) != (self.full is None):
            raise ValueError(f"{self.path}: a window needs the file's full size and the other way round")
        if self.polygons is not None and len(self.polygons) != n:
            raise ValueError(f"{self.path}: expected a polygon per label, {n}, got {len(self.polygons)}")

    def __len__(self) -> int:
        return len(self.labels)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy -> (M,) width * height."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def gather(ends: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pick rows of a ragged array whose row r lies in [ends[r - 1], ends[r]).

    Returns the positions of the picked rows' items, end to end, and where each picked row then ends.
    """
    lengths = np.diff(ends, prepend=0)[rows]
    new_ends = np.cumsum(lengths, dtype=np.int64)
    shift = (ends[rows] - new_ends).astype(np.int64)  # what an item moves by
    return np.arange(new_ends[-1] if len(rows) else 0) + np.repeat(shift, lengths), new_ends


@dataclass(eq=False)
class RecordTable(Sequence[Record]):
    """Many records as a handful of arrays: a sequence of `Record` that are views, made when asked for.

    No Python object is kept per image or label, so an index of COCO's size stays small and is not copied page by page
    into every worker. paths: all paths, UTF-8, end to end (P,) uint8, cut by path_ends (n,); image_ids (n,);
    sizes (n, 2) height, width; ends (n,) where an image's labels stop; then the label arrays, (M, ...).

    Optional: windows (n, 4) int32, all 0 for an image that is a whole file, with full_sizes (n, 2) int32 of the files;
    polygon_points (K, 2) float32 of all labels, cut by polygon_ends (M,).
    """

    paths: np.ndarray
    path_ends: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    ends: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    annotation_ids: np.ndarray
    windows: np.ndarray | None = None
    full_sizes: np.ndarray | None = None
    polygon_points: np.ndarray | None = None
    polygon_ends: np.ndarray | None = None

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> "RecordTable":
        """Pack records; the opposite of reading them one by one."""
        if isinstance(records, RecordTable):
            return records
        paths = [r.path.encode("utf-8", "surrogateescape") for r in records]
        table = cls(
            paths=np.frombuffer(b"".join(paths), np.uint8),
            path_ends=np.cumsum([len(p) for p in paths], dtype=np.int64),
            image_ids=np.array([r.image_id for r in records], np.int64),
            sizes=np.array([(r.height, r.width) for r in records], np.int32).reshape(-1, 2),
            ends=np.cumsum([len(r) for r in records], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(r.boxes for r in records)]).astype(np.float32),
            labels=np.concatenate([np.zeros(0, np.int64), *(r.labels for r in records)]),
            ignore=np.concatenate([np.zeros(0, bool), *(r.ignore for r in records)]),
            areas=np.concatenate([np.zeros(0, np.float32), *(r.areas for r in records)]).astype(np.float32),
            annotation_ids=np.concatenate([np.zeros(0, np.int64), *(r.annotation_ids for r in records)]),
        )
        if any(r.window for r in records):
            table.windows = np.array([r.window or (0, 0, 0, 0) for r in records], np.int32)
            table.full_sizes = np.array([r.full or (r.height, r.width) for r in records], np.int32)
        if any(r.polygons is not None for r in records):
            polygons = [p for r in records for p in r.polygons or [NO_POLYGON] * len(r)]
            table.polygon_points, table.polygon_ends = pack_polygons(polygons)
        return table

    @classmethod
    def join(cls, parts: "list[RecordTable]") -> "RecordTable":
        """All images of several tables that have the same optional columns, one table after the other."""
        columns: dict[str, np.ndarray | None] = {}
        for f in fields(cls):
            arrays = [getattr(part, f.name) for part in parts]
            if arrays[0] is not None and f.name in ENDS:
                past = np.cumsum([0, *(len(getattr(part, ENDS[f.name])) for part in parts[:-1])])
                arrays = [a + before for a, before in zip(arrays, past, strict=True)]
            columns[f.name] = None if arrays[0] is None else np.concatenate(arrays)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, i: int) -> Record: ...
    @overload
    def __getitem__(self, i: slice) -> "RecordTable": ...
    def __getitem__(self, i: "int | slice") -> "Record | RecordTable":
        if isinstance(i, slice):
            return self.select(range(len(self))[i])
        i = range(len(self))[i]  # negative counts from the end; IndexError past it
        span = self._span(i)
        height, width = self.sizes[i].tolist()
        window = full = None
        if self.windows is not None and self.windows[i, 2]:
            window, full = tuple(self.windows[i].tolist()), tuple(self.full_sizes[i].tolist())
        return Record(self.path(i), int(self.image_ids[i]), height, width, self.boxes[span], self.labels[span],
                      self.ignore[span], self.areas[span], self.annotation_ids[span], window, full,
                      self._polygons(span))

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def path(self, i: int) -> str:
        """Where image i lies."""
        start = self.path_ends[i - 1] if i else 0
        return self.paths[start:self.path_ends[i]].tobytes().decode("utf-8", "surrogateescape")

    def targets(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray] | None]:
        """boxes, labels, ignore and polygons of image i, a tenth of the time of its whole `Record`."""
        span = self._span(i)
        return self.boxes[span], self.labels[span], self.ignore[span], self._polygons(span)

    def select(self, images: Sequence[int] | np.ndarray) -> "RecordTable":
        """A table of the images at these positions, in this order; one may stand there more than once."""
        images = np.asarray(images, np.int64)
        letters, path_ends = gather(self.path_ends, images)
        picked, ends = gather(self.ends, images)
        per_image = {name: None if (column := getattr(self, name)) is None else column[images]
                     for name in ("image_ids", "sizes", "windows", "full_sizes")}
        return RecordTable(paths=self.paths[letters], path_ends=path_ends, ends=ends, **per_image,
                           **self.label_columns(picked))

    def keep_labels(self, keep: np.ndarray) -> "RecordTable":
        """A table of the same images with the labels where `keep` (M,) bool."""
        ends = np.concatenate(([0], np.cumsum(keep)))[self.ends]
        return replace(self, ends=ends.astype(np.int64), **self.label_columns(np.flatnonzero(keep)))

    def repeat_for_classes(self, rows: np.ndarray, classes: int) -> "RecordTable":
        """A table in which the labels where `rows` (M,) bool stand once for each class, end to end."""
        counts = np.where(rows, classes, 1)
        columns = self.label_columns(np.repeat(np.arange(len(rows)), counts))
        first = np.cumsum(counts) - counts
        step = np.arange(counts.sum()) - np.repeat(first, counts)
        columns["labels"] = np.where(np.repeat(rows, counts), step, columns["labels"])
        ends = np.concatenate(([0], np.cumsum(counts)))[self.ends]
        return replace(self, ends=ends.astype(np.int64), **columns)

    def label_columns(self, picked: np.ndarray) -> dict[str, np.ndarray | None]:
        """The label arrays and polygons of the labels at these positions, by the names of the fields."""
        columns = {name: getattr(self, name)[picked] for name in LABEL_FIELDS}
        if self.polygon_points is None:
            return columns
        points, ends = gather(self.polygon_ends, picked)
        return {**columns, "polygon_points": self.polygon_points[points], "polygon_ends": ends}

    def image_of_label(self) -> np.ndarray:
        """(M,) the position of the image that each label belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))

    def _span(self, i: int) -> slice:
        return slice(int(self.ends[i - 1]) if i else 0, int(self.ends[i]))

    def _polygons(self, span: slice) -> list[np.ndarray] | None:
        if self.polygon_points is None:
            return None
        ends = self.polygon_ends[span]
        start = self.polygon_ends[span.start - 1] if span.start else 0
        return [self.polygon_points[a:b] for a, b in zip((start, *ends[:-1]), ends, strict=True)] if len(ends) else []


def pack_polygons(polygons: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Outlines (k, 2) of M labels -> all points (K, 2) float32 and where each outline ends (M,)."""
    points = np.concatenate([NO_POLYGON, *polygons]).astype(np.float32)
    return points, np.cumsum([len(p) for p in polygons], dtype=np.int64)
