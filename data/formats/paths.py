"""Where the images that a list names lie, and the labels of images: by reading folders, not by asking for each file."""

import os
from pathlib import Path

from data.labels.scan_report import ScanReport
from utils.errors import UserError
from utils.files import read_plain

LARGEST_TEXT, LARGEST_LIST = 1 << 26, 1 << 30  # bytes of a label file, of a list of images
IMAGE_SUFFIXES = frozenset((".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm",
                            ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"))
UNREAD_SUFFIXES = frozenset((".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef",
                             ".npy", ".orf", ".psd", ".raf", ".raw", ".svg"))
LEFTOVERS = frozenset(("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information"))
LABEL_SUFFIXES = (".txt", ".TXT", ".Txt")


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


def read_text(file: str, most: int = LARGEST_TEXT) -> str:
    """A text file of at most `most` bytes, in UTF-8 or, with a byte-order mark, UTF-16. Other bytes become surrogates.

    Raises `OSError`.
    """
    data = read_plain(file, most)
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16", "replace") if wide else data.decode("utf-8-sig", "surrogateescape")


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without blank ones; byte-order marks, of UTF-16 too, are understood."""
    text = read_text(str(path), LARGEST_LIST)
    if "\0" in text:
        raise UserError(f"{path}: no list of images in UTF-8; save it as UTF-8, one path per line", "not-utf8")
    return [line.strip() for line in text.splitlines() if line.strip()]


class Folders:
    """The names in folders, each folder read once, when it is first asked for."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        """What lies in a folder; nothing where there is none or it cannot be read."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))  # noqa: PTH208
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        return self._names[folder]

    def has(self, path: str) -> bool:
        """Whether there is something of this path."""
        folder, _, name = path.rpartition(os.sep)
        return name in self.names(folder or os.sep)


def label_file(image: str) -> str:
    """Where the labels of an image should lie: in `labels` for the last folder `images`, else beside it."""
    folder, _, name = image.rpartition(os.sep)
    return _label_folder(folder) + os.sep + name[:_stem(name)] + ".txt"


def label_files(images: list[str]) -> list[str]:
    """Where the labels of images lie: at their `label_file`, with its suffix in capitals, or beside the image.

    A file that is nowhere is named where it should lie.
    """
    folders, found = Folders(), []
    at, label_folder, there = None, "", frozenset()
    for image in images:
        folder, _, name = image.rpartition(os.sep)
        if folder != at:
            at, label_folder = folder, _label_folder(folder)
            there = folders.names(label_folder or os.sep)
        stem = name[:_stem(name)]
        file = stem + ".txt"
        if file in there:
            found.append(label_folder + os.sep + file)
            continue
        beside = folders.names(folder or os.sep)
        place, file = next(((place, stem + suffix) for place, names in ((label_folder, there), (folder, beside))
                            for suffix in LABEL_SUFFIXES if stem + suffix in names), (label_folder, file))
        found.append(place + os.sep + file)
    return found


def listed_images(entry: Path, root: Path, folders: Folders | None = None, most: int | None = None) -> list[str]:
    """The images that a list file names, or the first `most`; `UserError` where it is no list.

    A relative path lies beside the list, in `path`, or where the command runs. One that is in none of these is tried
    with / for \\, as Windows writes it, and without a leading `data/`, as CVAT does; one that is nowhere is named all
    the same.
    """
    if entry.suffix.lower() != ".txt":
        raise UserError(f"{entry}: a split should be a folder or a list of images ending in .txt", "not-a-list")
    folders = folders or Folders()
    bases = list(dict.fromkeys(str(base) for base in (entry.parent, root, Path.cwd())))
    found: list[str] = []
    missing: list[tuple[int, str]] = []
    for line in read_lines(entry)[:most]:
        path = _find(line, bases, folders)
        if path is None:
            missing.append((len(found), line))
            path = ""
        found.append(path)
    for position, line in missing:  # `bases` begins with the one where the last was found
        found[position] = os.path.normpath(os.path.join(bases[0], line))  # noqa: PTH118
    return found


def _find(line: str, bases: list[str], folders: Folders) -> str | None:
    """The path of a line that is there, None where it is not; the base that had it moves to the front."""
    spellings = [line]
    if "\\" in line:
        spellings.append(line.replace("\\", "/"))
    for spelling in spellings:
        if os.path.isabs(spelling):  # noqa: PTH117  Path costs 10x here, and there may be 100k
            return os.path.normpath(spelling)
        for base in bases:
            path = os.path.normpath(os.path.join(base, spelling))  # noqa: PTH118
            if folders.has(path):
                if base != bases[0]:
                    bases.remove(base)
                    bases.insert(0, base)
                return path
    short = spellings[-1].removeprefix("./")
    return _find(short.removeprefix("data/"), bases, folders) if short.startswith("data/") else None


def _stem(name: str) -> int:
    """How many letters of a file's name stand before its suffix."""
    dot = name.rfind(".")
    return dot if name[:dot].strip(".") and dot > 0 else len(name)


def _label_folder(folder: str) -> str:
    before, images, after = (folder + os.sep).rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}".removesuffix(os.sep) if images else folder
