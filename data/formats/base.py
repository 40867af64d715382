"""What the readers of all formats share: the labels as found, before a check against the images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.labels.scan_report import ScanReport
from utils.errors import UserError
from utils.files import read_plain

LARGEST_LIST = 1 << 30  # bytes
IMAGE_SUFFIXES = frozenset((".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
                            ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"))
UNREAD_SUFFIXES = frozenset((".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef",
                             ".npy", ".orf", ".psd", ".raf", ".raw", ".svg"))
LEFTOVERS = frozenset(("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"))


@dataclass
class Unchecked:
    """Labels of a split as its files have them, all images together (n images, M labels).

    paths, label_files, image_ids: per image; told_sizes (n, 2): the height and width that the label file claims, 0
    where it does not; image (M,): the position of each label's image; boxes (M, 4) float64 xyxy, in pixels, or as
    fractions of the image where `normalised`; labels (M,), no class where outside [0, number of names); ignore (M,);
    areas (M,), NaN where not told; annotation_ids (M,); rows (M,): what a message calls the label, a `row_word` and
    this number. exact: a box that reaches less than a pixel out of its image is kept to the last digit, so that AP is
    COCO's own. polygons: where they were asked for and the format has them, an outline (k, 2) per label in the unit of
    the boxes, k = 0 for a label without one. all_classes (M,): ignore regions in which an object of any class may lie,
    where the format has such; their label is 0. windows (n, 4): x1, y1, x2, y2 of the part of its file that an image
    is, all 0 for a whole file; None where all are whole.
    """

    paths: list[str]
    label_files: Sequence[str]
    image_ids: list[int]
    told_sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    annotation_ids: np.ndarray
    rows: np.ndarray
    names: list[str]
    category_ids: list[int]
    row_word: str = "line"
    normalised: bool = False
    exact: bool = False
    polygons: list[np.ndarray] | None = None
    all_classes: np.ndarray | None = None
    windows: np.ndarray | None = None


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


def image_files(folder: Path, report: ScanReport | None = None) -> list[str]:
    """Every image below a folder, sorted by path, paths as they are written.

    Linked folders are followed, each real folder once and after those that lie here, and none that holds the link
    itself. Hidden files and folders and what other programs leave (`LEFTOVERS`), images of kinds that nothing here
    reads, pipes and devices are left out, and counted in the report.
    """
    found: dict[str, list[str]] = {"": [], "leftover": [], "unread_image": [], "special_file": []}
    seen: set[tuple[int, int]] = set()
    todo, links = [(str(folder), False)], []
    while todo or links:
        if not todo:
            links.sort(reverse=True)
        at, hidden = todo.pop() if todo else links.pop()
        try:
            status = os.stat(at)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(at) as entries:
                for entry in entries:
                    _sort_in(entry, hidden, found, todo, links)
        except OSError as error:
            if report is not None:
                report.add("closed_folder", f"{at} ({error.strerror})")
    for kind in found.keys() - {""} if report is not None else ():
        report.add(kind, min(found[kind], default=""), len(found[kind]))
    return sorted(found[""])


def _sort_in(entry: os.DirEntry, hidden: bool, found: dict[str, list[str]], todo: list[tuple[str, bool]],
             links: list[tuple[str, bool]]) -> None:
    """Put an entry of a folder where it belongs: a kind of finding, folders to visit, linked folders to visit later."""
    hidden = hidden or entry.name[0] == "." or entry.name in LEFTOVERS
    if entry.is_dir():
        if not entry.is_symlink():
            todo.append((entry.path, hidden))
        elif not _is_loop(entry.path):
            links.append((entry.path, hidden))
        return
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  Path costs 10x here
    if suffix not in IMAGE_SUFFIXES:
        if suffix in UNREAD_SUFFIXES and not hidden:
            found["unread_image"].append(entry.path)
    elif hidden:
        found["leftover"].append(entry.path)
    elif entry.is_file() or entry.is_symlink() and not Path(entry.path).exists():  # a broken link: an image not found
        found[""].append(entry.path)
    else:
        found["special_file"].append(entry.path)


def _is_loop(link: str) -> bool:
    """Whether a linked folder holds the link itself."""
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))  # noqa: PTH120
    return f"{place}{os.sep}".startswith(f"{target.rstrip(os.sep)}{os.sep}")


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without blank ones; byte-order marks, of UTF-16 too, are understood."""
    data = read_plain(str(path), LARGEST_LIST)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    if "\0" in text:
        raise UserError(f"{path}: no list of images in UTF-8; save it as UTF-8, one path per line")
    return [line.strip() for line in text.splitlines() if line.strip()]


def ids_from_names(paths: list[str]) -> list[int]:
    """Image ids as COCO has them: the number that a file's name is; 1..n where not every name is one."""
    stems = [Path(p).stem for p in paths]
    numbers = [int(s) for s in stems if s.isascii() and s.isdigit() and len(s) <= 18]
    return numbers if len(set(numbers)) == len(paths) else list(range(1, len(paths) + 1))
