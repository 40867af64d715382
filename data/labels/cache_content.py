"""The content of a label cache is checked: the types, shapes and ranges that a scan gives.

Legend: n images, M labels, P bytes of paths, K points of polygons.
"""

import zipfile
from dataclasses import fields
from typing import Any

import numpy as np

from data.labels.records import RecordTable
from data.labels.scan_report import KINDS, ScanReport

TYPES = {"paths": "u1", "path_ends": "i8", "image_ids": "i8", "sizes": "i4", "ends": "i8", "boxes": "f4",
         "labels": "i8", "ignore": "b1", "areas": "f4", "annotation_ids": "i8", "windows": "i4", "full_sizes": "i4",
         "polygon_points": "f4", "polygon_ends": "i8"}


def read_array(archive: zipfile.ZipFile, name: str, kind: str | None = None) -> np.ndarray:
    """An array of an .npz that is not compressed, without pickles. `ValueError` where it is of another type than `kind`
    or says that it has another size than it has: no memory is taken before that is known.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name}: not as it is written here")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        count = 1
        for side in shape:
            count *= side
        size = info.file_size - file.tell()
        if dtype.hasobject or fortran or (kind and dtype != np.dtype(kind)) or count * dtype.itemsize != size or (
                min(shape, default=1) < 0):
            raise ValueError(f"{name}: another type or size than it says")
        content = bytearray(file.read())
    return np.frombuffer(content, dtype).reshape(shape)


def read_table(archive: zipfile.ZipFile) -> RecordTable:
    """The columns of a table, those that it may lack too."""
    there = {info.filename.removesuffix(".npy") for info in archive.infolist()}
    return RecordTable(**{f.name: read_array(archive, f.name, TYPES.get(f.name)) for f in fields(RecordTable)
                          if f.name in there})


def check(table: RecordTable, meta: dict[str, Any], report: ScanReport) -> None:
    """`ValueError` where the content is none that a scan gives."""
    n, m, classes = len(table.image_ids), len(table.labels), len(meta["names"])
    shapes = {"paths": (None,), "path_ends": (n,), "image_ids": (n,), "sizes": (n, 2), "ends": (n,), "boxes": (m, 4),
              "labels": (m,), "ignore": (m,), "areas": (m,), "annotation_ids": (m,), "windows": (n, 4),
              "full_sizes": (n, 2), "polygon_points": (None, 2), "polygon_ends": (m,)}
    right = [_has_shape(getattr(table, name), shape) for name, shape in shapes.items()]
    right += [_cuts(table.path_ends, len(table.paths)), _cuts(table.ends, m), (table.polygon_points is None) == (
        table.polygon_ends is None), (table.windows is None) == (table.full_sizes is None)]
    if not all(right):
        raise ValueError("arrays that do not fit each other")
    if table.polygon_points is not None:
        right += [_cuts(table.polygon_ends, len(table.polygon_points)), np.isfinite(table.polygon_points).all()]
    right += [(table.sizes > 0).all(), _inside(table), not np.isnan(table.areas).any(),
              (table.boxes[:, 2:] >= table.boxes[:, :2]).all(), (table.labels >= 0).all(),
              (table.labels < classes).all(), _is_list(meta["names"], str), _is_list(meta["category_ids"], int),
              len(meta["category_ids"]) == classes, _is_report(report, n)]
    if not all(right):
        raise ValueError("values that no scan gives")


def _inside(table: RecordTable) -> bool:
    """Whether all boxes lie in their images, to the pixel that a scan lets pass, and a thousandth of rounding."""
    frame = np.repeat(table.sizes[:, [1, 0, 1, 0]], np.diff(table.ends, prepend=0), axis=0).astype(np.float32)
    return bool((table.boxes >= -1.001).all() and (table.boxes <= frame + 1.001).all())  # False for NaN


def _has_shape(array: np.ndarray | None, shape: tuple[int | None, ...]) -> bool:
    return array is None or (array.ndim == len(shape) and all(
        want in (None, side) for side, want in zip(array.shape, shape, strict=True)))


def _cuts(ends: np.ndarray, total: int) -> bool:
    """Whether these are places where rows of a ragged array of so many items end."""
    return bool((np.diff(ends, prepend=0) >= 0).all()) and (int(ends[-1]) if len(ends) else 0) == total


def _is_list(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_report(report: ScanReport, images: int) -> bool:
    numbers = (report.images, report.boxes, report.ignored, report.background)
    findings = report.findings if isinstance(report.findings, dict) else {"": None}
    return (_is_list(list(numbers), int) and report.images == images and min(numbers) >= 0
            and _is_list(report.notes, str) and all(
                kind in KINDS and isinstance(found, list) and [type(v) for v in found] == [int, str] and found[0] > 0
                for kind, found in findings.items()))
