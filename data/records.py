"""What is known of the images of a dataset before any of them is opened.

Legend: n images, M boxes of all images together, N boxes of one image. Boxes are xyxy in pixels of the original frame,
continuous: a box over the whole of a 640 x 480 image is (0, 0, 640, 480).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

LABEL_FIELDS = ("boxes", "labels", "ignore", "areas", "annotation_ids")


@dataclass(slots=True)
class Record:
    """One image's place, size, id and labels as the dataset stores them.

    boxes (N, 4) float32 xyxy pixels of the original frame; labels (N,) int64 in [0, nc); ignore (N,) bool, True for
    crowds; areas (N,) float32 square pixels, of the object's mask where the dataset says so, of the box otherwise;
    annotation_ids (N,) int64, those of the dataset where it has some, 1..M otherwise.
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

    def __len__(self) -> int:
        return len(self.labels)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy -> (M,) width * height."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@dataclass(eq=False)
class RecordTable(Sequence[Record]):
    """Many records as a handful of arrays: a sequence of `Record` that are views, made when asked for.

    No Python object is kept per image or label, so an index of COCO's size stays small and is not copied page by page
    into every worker. paths: all paths, UTF-8, end to end (P,) uint8, cut by path_ends (n,); image_ids (n,);
    sizes (n, 2) height, width; ends (n,) where an image's labels stop; then the label arrays, (M, ...).
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

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> "RecordTable":
        """Pack records; the opposite of reading them one by one."""
        paths = [r.path.encode("utf-8", "surrogateescape") for r in records]
        return cls(
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
        return Record(self.path(i), int(self.image_ids[i]), height, width, self.boxes[span], self.labels[span],
                      self.ignore[span], self.areas[span], self.annotation_ids[span])

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def path(self, i: int) -> str:
        """Where image i lies."""
        start = self.path_ends[i - 1] if i else 0
        return self.paths[start:self.path_ends[i]].tobytes().decode("utf-8", "surrogateescape")

    def select(self, images: Sequence[int]) -> "RecordTable":
        """A table of the images at these positions, in this order."""
        return RecordTable.from_records([self[i] for i in images])

    def image_of_label(self) -> np.ndarray:
        """(M,) the position of the image that each label belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))

    def _span(self, i: int) -> slice:
        return slice(int(self.ends[i - 1]) if i else 0, int(self.ends[i]))
