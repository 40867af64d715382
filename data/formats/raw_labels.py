"""What the readers of all formats share: the labels as found, before a check against the images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(kw_only=True)
class RawLabels:
    """Labels of a split as its files have them, all images together (n images, M labels).

    Of each image: paths; label_files; image_ids, where not given the numbers that the files are named by, or 1..n;
    stated_sizes (n, 2), height and width as the label file states them, 0 where it does not; windows (n, 4): x1, y1,
    x2, y2 of the part of its file that an image is, all 0 for a whole file, None where all are whole.

    Of each label: image (M,), the position of its image; boxes (M, 4) float64 xyxy, in pixels, or as fractions of the
    image where `normalised`; labels (M,), no class where outside [0, number of names); ignore (M,), none where not
    given; areas (M,), NaN where not stated; annotation_ids (M,), 1..M where not given; rows (M,): what a message calls
    the label, a `row_name` and this number; polygons: where they were asked for and the format has them, an outline
    (k, 2) in the unit of the boxes, k = 0 without one; all_classes (M,): ignore regions in which an object of any class
    may lie, where the format has such; their label is 0.

    names, category_ids: by label; ids are 1..nc where not given. exact: a box that reaches less than a pixel out of its
    image is kept to the last digit, so that AP is COCO's own.
    """

    paths: list[str]
    label_files: Sequence[str]
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    names: list[str]
    ignore: np.ndarray = field(default=None)  # type: ignore[assignment]
    image_ids: list[int] = field(default=None)  # type: ignore[assignment]
    stated_sizes: np.ndarray = field(default=None)  # type: ignore[assignment]
    areas: np.ndarray = field(default=None)  # type: ignore[assignment]
    annotation_ids: np.ndarray = field(default=None)  # type: ignore[assignment]
    category_ids: list[int] = field(default=None)  # type: ignore[assignment]
    row_name: str = "line"
    normalised: bool = False
    exact: bool = False
    polygons: list[np.ndarray] | None = None
    all_classes: np.ndarray | None = None
    windows: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, m = len(self.paths), len(self.labels)
        if self.ignore is None:
            self.ignore = np.zeros(m, bool)
        if self.image_ids is None:
            self.image_ids = ids_from_names(self.paths)
        if self.stated_sizes is None:
            self.stated_sizes = np.zeros((n, 2), np.int64)
        if self.areas is None:
            self.areas = np.full(m, np.nan)
        if self.annotation_ids is None:
            self.annotation_ids = np.arange(1, m + 1)
        if self.category_ids is None:
            self.category_ids = list(range(1, len(self.names) + 1))


def join_outlines(parts: list[np.ndarray]) -> np.ndarray:
    """Outlines (k, 2) of the parts of one object -> one outline that encloses them all.

    A part is reached by a bridge to its nearest point and left by the same bridge, which so encloses nothing.
    """
    outline = parts[0]
    for part in parts[1:]:
        distance = ((outline[:, None] - part[None]) ** 2).sum(2)
        here, there = np.unravel_index(distance.argmin(), distance.shape)
        tour = np.roll(part, -there, 0)
        outline = np.concatenate((outline[:here + 1], tour, tour[:1], outline[here:]))
    return outline


def ids_from_names(paths: list[str]) -> list[int]:
    """Image ids as COCO has them: the number that a file's name is; 1..n where not every name is one."""
    stems = [Path(p).stem for p in paths]
    numbers = [int(s) for s in stems if s.isascii() and s.isdigit() and len(s) <= 18]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))
