"""The check of labels against their images: what is wrong is repaired or left out, and always counted.

Legend: n images, M labels of all images together.
"""

import os

import numpy as np

from data.formats.raw_labels import RawLabels
from data.images.check_images import read_headers, report_turned
from data.images.decode import MAX_PIXELS
from data.images.headers import Header
from data.labels.records import RecordTable, box_areas, pack_polygons
from data.labels.scan_report import ScanReport
from utils.errors import UserError

ROUNDING = 1.0  # pixels by which a box may reach out of its image without being counted
FRACTIONS = 2.0  # a fraction of the image beyond this is no slip but another unit


def scan(found: RawLabels, report: ScanReport, max_pixels: int = MAX_PIXELS) -> RecordTable:
    """Check all images and labels of a split; the counts of what is kept and what is not go to the report."""
    headers, sizes = read_headers(found.paths, report, max_pixels)
    usable = np.array([isinstance(h, Header) for h in headers], bool)
    turned = np.array([isinstance(h, Header) and h.turned for h in headers], bool)
    full_sizes = sizes.copy()
    if found.windows is not None:
        sizes, usable = _take_windows(found, sizes, usable, report)
    _compare_sizes(found, sizes, turned, usable, report)
    report_turned(found.paths, headers, sizes, report)
    boxes, keep = _check_labels(found, sizes, usable, report)
    image = found.image[keep]
    order = np.argsort(image, kind="stable")
    keep, image = keep[order], image[order]
    boxes = boxes[keep].astype(np.float32)
    areas = found.areas[keep].astype(np.float32)
    per_image = np.bincount(image, minlength=len(usable))[usable]
    paths = [os.fsencode(found.paths[i]) for i in np.flatnonzero(usable)]
    table = RecordTable(
        paths=np.frombuffer(b"".join(paths), np.uint8), path_ends=np.cumsum([len(p) for p in paths], dtype=np.int64),
        image_ids=np.array(found.image_ids, np.int64)[usable], sizes=sizes[usable].astype(np.int32),
        ends=np.cumsum(per_image, dtype=np.int64), boxes=boxes, labels=found.labels[keep], ignore=found.ignore[keep],
        areas=np.where(np.isnan(areas), box_areas(boxes), areas), annotation_ids=found.annotation_ids[keep])
    if found.windows is not None:
        table.windows, table.full_sizes = found.windows[usable].astype(np.int32), full_sizes[usable].astype(np.int32)
    if found.polygons is not None:
        table.polygon_points, table.polygon_ends = _outlines(found, sizes, keep)
        drawn = int((np.diff(table.polygon_ends, prepend=0)[~table.ignore] > 0).sum())
        report.notes.append(f"{drawn} of {int((~table.ignore).sum())} boxes have a polygon; of the others copy-paste "
                            "takes the rectangle")
    report.images, report.background = len(table), int((per_image == 0).sum())
    report.ignored = int(table.ignore.sum())
    report.boxes = len(table.labels) - report.ignored
    if found.all_classes is not None and found.all_classes[keep].any():  # COCO's protocol ignores class by class
        table = table.repeat_for_classes(found.all_classes[keep], len(found.names))
    return table


def _take_windows(found: RawLabels, sizes: np.ndarray, usable: np.ndarray,
                  report: ScanReport) -> tuple[np.ndarray, np.ndarray]:
    """The size of each window, of the file where there is none; which are usable: those that lie within their file."""
    is_window = found.windows[:, 2] > 0
    outside = is_window & usable & (found.windows[:, 2:] > sizes[:, ::-1]).any(1)
    if outside.any():
        k = np.flatnonzero(outside)[0]
        report.add("bad_window", f"{found.paths[k]} of {sizes[k, 1]}x{sizes[k, 0]}, corner "
                   f"{found.windows[k].tolist()}", int(outside.sum()))
    own = (found.windows[:, 2:] - found.windows[:, :2])[:, ::-1]
    return np.where(is_window[:, None], own, sizes), usable & ~outside


def _compare_sizes(found: RawLabels, sizes: np.ndarray, turned: np.ndarray, usable: np.ndarray,
                   report: ScanReport) -> None:
    """Count label files that state another size; labels made on the image as stored, unturned, keep that frame."""
    stated = found.stated_sizes
    unturned = turned & (stated == sizes[:, ::-1]).all(1)
    sizes[unturned] = stated[unturned]
    if unturned.any():
        report.add("unturned_image", found.paths[int(np.argmax(unturned))], int(unturned.sum()))
    wrong = np.flatnonzero((stated != 0).any(1) & (stated != sizes).any(1) & usable)
    if len(wrong):
        i = wrong[0]
        says, has = (f"{w}x{h}" for h, w in (stated[i].tolist(), sizes[i].tolist()))
        report.add("wrong_size", f"{found.label_files[i]} says {says}, {found.paths[i]} has {has}", len(wrong))


def _check_labels(found: RawLabels, sizes: np.ndarray, usable: np.ndarray,
                  report: ScanReport) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (M, 4) in pixels, positions of labels to keep); a label counts for its first fault only.

    Few arrays of (M, 4) float64 live at a time: each is 28 MB for COCO.
    """
    frame = sizes.astype(np.float64)[:, [1, 0, 1, 0]][found.image]  # (M, 4): width, height, width, height
    boxes = found.boxes * frame if found.normalised else found.boxes
    swapped = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if swapped.any():
        boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), 1)
    keep = usable[found.image]

    def leave_out(kind: str, fault: np.ndarray, detail: str = "") -> None:
        nonlocal keep
        rows = np.flatnonzero(keep & fault)
        if len(rows):
            said = f", class {found.labels[rows[0]]}" if kind == "bad_class" else ""
            report.add(kind, _where(found, rows[0]) + said + detail, len(rows))
            keep = keep & ~fault

    bad = (found.labels < 0) | (found.labels >= len(found.names))
    leave_out("bad_class", bad, f"; there are {len(found.names)} names, 0 to {len(found.names) - 1}")
    if found.normalised:
        foreign = np.abs(found.boxes).max(1, initial=0) > FRACTIONS
        if len(foreign) and foreign.all():
            raise UserError(f"{_where(found, 0)}: x y width height should be fractions of the image, here and in all "
                            f"this split they are not; divide pixels by the image's size, percent by 100",
                            "wrong-units")
        leave_out("not_fractions", foreign)
    inside = np.clip(boxes, 0, frame, out=frame)
    no_area = (inside[:, 2:].astype(np.float32) <= inside[:, :2].astype(np.float32)).any(1)  # as it will be kept
    leave_out("no_area", no_area)
    turned = np.flatnonzero(keep & swapped)
    if len(turned):
        report.add("swapped", _where(found, turned[0]), len(turned))
    reach = np.abs(inside - boxes).max(1, initial=0)
    far = np.flatnonzero(keep & (reach > ROUNDING))
    if len(far):
        report.add("clipped", f"{_where(found, far[0])}, by {reach[far[0]]:.1f} px", len(far))
    if found.exact:
        np.copyto(inside, boxes, where=(reach <= ROUNDING)[:, None])
    leave_out("duplicate", _repeats(found, inside))
    return inside, np.flatnonzero(keep)


def _outlines(found: RawLabels, sizes: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, 2) in pixels and ends (M,) of the polygons of the labels that are kept."""
    points, ends = pack_polygons([found.polygons[i] for i in keep])
    if found.normalised:
        per_label = sizes[found.image[keep]][:, ::-1].astype(np.float32)  # width, height
        points *= np.repeat(per_label, np.diff(ends, prepend=0), axis=0)
    return points, ends


def _repeats(found: RawLabels, boxes: np.ndarray) -> np.ndarray:
    """(M,) True for a label whose image, class, box and ignore flag stood before it already."""
    keys = (*np.round(boxes, 3).T, found.ignore, found.labels, found.image)
    order = np.lexsort(keys)  # stable: the first of equals stays first
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        sorted_key = key[order]
        same &= sorted_key[1:] == sorted_key[:-1]
    repeats = np.zeros(len(order), bool)
    repeats[order[1:]] = same
    return repeats


def _where(found: RawLabels, label: int) -> str:
    return f"{found.label_files[found.image[label]]} {found.row_name} {found.rows[label]}"
