"""The rows of a YOLO label file, and what their columns mean.

A row is a class and numbers, fractions of the image:

    5 columns    class x y width height: a box
    6 columns    a box and a confidence, 0 to 1: the box is taken, and counted. Where many sixth numbers are none, or
                 the box is in the last four columns (a track id before it), the split is refused
    7 and more   a polygon `class x1 y1 x2 y2 x3 y3 ...`, as segmentation and oriented boxes (DOTA: 8 numbers) are
                 written, or a box with keypoints, or a box with a confidence and a track id

The YAML decides about the last kind where it can: `kpt_shape: [17, 3]` says that 17 keypoints of 3 numbers follow the
box, `kpt_shape: none` that rows are polygons. Without it the rows of the split do. A row *agrees with its first four
numbers* where these are a box inside the image, with what follows being keypoints of 2 or 3 numbers in that box, those
that are not marked invisible, or a confidence and a track id. It *may be a polygon* where its number of columns is odd,
its points lie in the image and span an area. Then

    polygons     where the rows have several lengths, or most do not agree with their first four numbers;
    boxes        where (nearly) all agree, and most cannot be polygons: visibility 2, track ids, points all over;
    refused      where both or neither may be true: an error names a row and the cure.

Rows that contradict what was decided are counted as not well formed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np

from data.labels.records import NO_POLYGON
from data.labels.scan_report import ScanReport
from utils.errors import UserError

Box = tuple[float, float, float, float]
EDGE = 0.02  # by which a box may reach out of the image and still be one
AROUND = 0.25  # of its size, by which keypoints may lie out of their box
OUTSIDE = 0.5  # how far out of the image a point of a polygon may lie
PARALLEL = 4e-3  # what opposite corners of an oriented box may differ by
NEARLY_ALL, MOST = 0.9, 0.5
FEW, SHARE = 3, 0.1  # rows of 6 columns of another order; fewer are slips
EXPECTED = "expected class x y width height"
KEYPOINTS = "; where keypoints follow, `kpt_shape: [number, 2 or 3]` in the YAML says so"


@dataclass
class _Undecided:
    """A row that agrees with its first four numbers: its place among all rows, box, and whether it may be a polygon."""

    row: int
    box: Box
    polygon: bool
    likely: bool
    where: str


@dataclass
class Columns:
    """What the rows of a split say about columns beyond the fifth.

    keypoints: (number, numbers of each) of the YAML's `kpt_shape`, () where it says that there are none, None where it
    says nothing. before: rows of the files before the current one.
    """

    keypoints: tuple[int, ...] | None = None
    before: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    polygons: list[tuple[int, str]] = field(default_factory=list)  # rows that can only be polygons
    undecided: list[_Undecided] = field(default_factory=list)
    sixes: Counter[str] = field(default_factory=Counter)  # rows of 6 columns: all, and those that are odd
    odd: dict[str, str] = field(default_factory=dict)  # the first row of each kind

    def add_six(self, values: list[float], where: str) -> None:
        """Note a row of 6 columns: whether the last can be a confidence, and which four are a box in the image."""
        kinds = ["late"] * _is_box(values[2:6])
        if not 0 <= values[5] <= 1:
            kinds.append("number")
        elif not _is_box(values[1:5]):
            kinds.append("place")
        self.sixes.update(["all", *kinds])
        for kind in kinds:
            self.odd.setdefault(kind, where)

    def _check_sixes(self) -> None:
        least = max(FEW, SHARE * self.sixes["all"])
        if self.sixes["place"] >= least and self.sixes["late"] >= NEARLY_ALL * self.sixes["all"]:
            raise UserError(f"{self.odd['place']}: of the 6 columns the last four are a box in the image, as in nearly "
                            f"all such rows of the split, and those behind the class are not; delete the second column "
                            f"(a track id or a confidence), so that rows are: class x y width height", "ambiguous-rows")
        if self.sixes["number"] >= least:
            raise UserError(f"{self.odd['number']}: 6 columns whose last is no confidence from 0 to 1, as in "
                            f"{self.sixes['number']} of {self.sixes['all']} such rows of the split; delete it if it is "
                            f"a track id; turned boxes are written as class x1 y1 x2 y2 x3 y3 x4 y4", "ambiguous-rows")

    def settle(self, table: np.ndarray, report: ScanReport, outlines: list[np.ndarray] | None,
               yaml: Path) -> np.ndarray:
        """(rows,) which rows of the split's table to keep; its long rows become what they are. See the module."""
        self._check_sixes()
        keep = np.ones(len(table), bool)
        if not self.undecided:
            return keep
        if self._are_boxes(yaml):
            for item in self.undecided:
                table[item.row, 1:5] = item.box
                if outlines is not None:
                    outlines[item.row] = NO_POLYGON
            report.add("extra_columns", self.undecided[0].where, len(self.undecided))
            wrong = self.polygons
        else:
            wrong = [(item.row, item.where) for item in self.undecided if not item.polygon]
        for row, where in wrong:
            report.add("corrupt_row", f"{where}; its columns are of another kind than those of most rows")
            keep[row] = False
        return keep

    def _are_boxes(self, yaml: Path) -> bool:
        """Whether long rows are boxes with further columns; False for polygons."""
        total = len(self.undecided) + len(self.polygons)
        agree = len(self.undecided) / total
        possible = (len(self.polygons) + sum(item.polygon for item in self.undecided)) / total
        likely = (len(self.polygons) + sum(item.polygon and item.likely for item in self.undecided)) / total
        columns, common = self.lengths.most_common(1)[0]
        if possible > MOST and (common < NEARLY_ALL * total or agree < MOST):
            return False
        if agree >= NEARLY_ALL and likely <= MOST:
            return True
        raise UserError(f"{self.undecided[0].where}: {columns} columns may be a box with keypoints, or a polygon; "
                        f"write `kpt_shape: [number, 2 or 3]` for keypoints or `kpt_shape: none` for polygons into "
                        f"{yaml}", "ambiguous-rows")


def parse_rows(text: str, file: str, report: ScanReport, outlines: list[np.ndarray] | None = None,
               columns: Columns | None = None, names: Mapping[str, int] | None = None) -> np.ndarray:
    """(rows, 6) float64: class, x1, y1, x2, y2 in fractions, line number. Other rows are counted and left out.

    outlines: where given, the polygon (k, 2) float32 of every row is appended, k = 0 for a row that is a box. columns:
    what rows of 7 and more columns say; they are polygons here until `Columns.settle`. names: ids of classes, for rows
    that name theirs.
    """
    rows = []
    outlines = [] if outlines is None else outlines
    columns = Columns() if columns is None else columns
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        values = _numbers(words)
        if not values or len(values) == 6:
            values, mended = _repaired(line, words, values, names or {})
            if len(values) == 6:
                columns.add_six(values, f"{file} line {number}: {line.strip()[:60]!r}")
                values = values[:5] if 0 <= values[5] <= 1 else []  # as `detect.py --save-txt --save-conf` writes it
            if values:
                report.add(mended, f"{file} line {number}: {line.strip()[:60]!r}")
        n = len(values)
        fine = n >= 5 and all(map(isfinite, values)) and not values[0] % 1
        if fine and n == 5:
            label, x, y, width, height = values
            rows.append((label, x - width / 2, y - height / 2, x + width / 2, y + height / 2, number))
            outlines.append(NO_POLYGON)
            continue
        box = _long_row(values, columns, len(rows), f"{file} line {number}") if fine else None
        if box is None:
            said = f"{5 + np.prod(columns.keypoints, dtype=int)} columns or 5" if columns.keypoints else EXPECTED
            said += KEYPOINTS * (columns.keypoints is None and n > 7 and fine)
            where = f"{file} line {number}: {line.strip()[:60]!r}"
            report.add("corrupt_row", f"{where}; {said}")
            continue
        rows.append((values[0], *box, number))
        outlines.append(NO_POLYGON if columns.keypoints or n % 2 == 0 else
                        np.array(values[1:], np.float32).reshape(-1, 2))
    columns.before += len(rows)
    return np.array(rows, np.float64).reshape(-1, 6)


def _long_row(values: list[float], columns: Columns, row: int, where: str) -> Box | None:
    """The box of a row of 7 columns and more, that of a polygon until it is known; None where it can be neither."""
    n = len(values)
    x, y, width, height = values[1:5]
    box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if columns.keypoints:
        expected = 5 + columns.keypoints[0] * columns.keypoints[1]
        return box if expected <= n <= expected + 2 else None  # a confidence and a track id may follow
    xs, ys = values[1::2], values[2::2]
    odd = n >= 7 and n % 2 == 1
    if columns.keypoints is None and n >= 7 and _agrees(values, box) and not (n == 9 and _is_oblong(xs, ys)):
        polygon = odd and _may_be_polygon(xs, ys)
        likely = polygon and not (n == 7 and (values[6] % 1 == 0 or values[5] % 1 == 0)) and _is_likely(xs, ys)
        columns.undecided.append(_Undecided(columns.before + row, box, polygon, likely, where))
        columns.lengths[n] += 1
        return (min(xs), min(ys), max(xs), max(ys)) if polygon else box
    if not odd:
        return None
    columns.polygons.append((columns.before + row, where))
    columns.lengths[n] += 1
    return min(xs), min(ys), max(xs), max(ys)


def _agrees(values: list[float], box: Box) -> bool:
    """Whether the first four numbers are a box and the others belong to it, as keypoints or as confidence and id."""
    width, height = values[3:5]
    if not _is_box(values[1:5]):
        return False
    rest = values[5:]
    if len(rest) == 2 and any(0 <= a <= 1 and b >= 0 and b % 1 == 0 for a, b in (rest, rest[::-1])):
        return True  # a confidence and a track id, or the other way round
    left, top = box[0] - AROUND * width, box[1] - AROUND * height
    right, bottom = box[2] + AROUND * width, box[3] + AROUND * height

    def inside(points: list[tuple[float, ...]]) -> bool:
        return all(left <= p[0] <= right and top <= p[1] <= bottom for p in points if p[0] or p[1])

    confidence = 0 <= rest[-1] <= 1  # may follow the keypoints
    for numbers in (rest, rest[:-1]) if confidence else (rest,):
        if len(numbers) % 2 == 0 and inside(list(zip(numbers[::2], numbers[1::2], strict=True))):
            return True
        if len(numbers) % 3 == 0 and all(v in (0, 1, 2) or 0 <= v <= 1 for v in numbers[2::3]):
            points = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
            if inside([p for p in points if p[2]]):
                return True
    return False


def _is_box(values: list[float]) -> bool:
    """Whether centre x, centre y, width and height are a box inside the image."""
    x, y, width, height = values
    return (width > 0 and height > 0 and min(x - width / 2, y - height / 2) >= -EDGE
            and max(x + width / 2, y + height / 2) <= 1 + EDGE)


def _is_oblong(xs: list[float], ys: list[float]) -> bool:
    """Whether four points are a parallelogram: an oriented box."""
    return all(abs(v[0] + v[2] - v[1] - v[3]) <= PARALLEL for v in (xs, ys))


def _may_be_polygon(xs: list[float], ys: list[float]) -> bool:
    least, most = min(*xs, *ys), max(*xs, *ys)
    spans = max(xs) > min(xs) and max(ys) > min(ys) and len(set(zip(xs, ys, strict=True))) >= 3
    return spans and least > -OUTSIDE and most < 1 + OUTSIDE


def _is_likely(xs: list[float], ys: list[float]) -> bool:
    """Whether the first two of five points and more lie where the others do, as those of an outline mostly do."""
    if len(xs) < 5:
        return True
    for values in (xs, ys):
        low, high = min(values[2:]), max(values[2:])
        slack = AROUND * (high - low)
        if not low - slack <= min(values[:2]) <= max(values[:2]) <= high + slack:
            return False
    return True


def _numbers(words: list[str]) -> list[float]:
    """The words as numbers, none where one of them is no number."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return []
    return [] if any("_" in word for word in words) else values  # Python's own way to write thousands


def _repaired(line: str, words: list[str], values: list[float],
              names: Mapping[str, int]) -> tuple[list[float], str]:
    """A row that can mean one thing only, and how it was mended; empty where it may mean something else or nothing.

    Commas or semicolons between the numbers, a confidence or words after the box, or the name of the class.
    """
    kind = "mended_row"
    if not values and words[0] in names:
        values, kind = [float(names[words[0]]), *_numbers(words[1:])], "named_class"
        values = values if len(values) == len(words) else []
    if not values:
        values = _numbers(line.replace(";", " ").replace(",", " ").split())
    if not values and len(words) > 5 and not any(_numbers([word]) for word in words[5:]):
        values = _numbers(words[:5])
    usable = len(values) >= 5 and all(map(isfinite, values)) and values[0] % 1 == 0
    return (values if usable and (len(values) in (5, 6) or kind == "named_class") else []), kind
