"""What the formats with a text file of pixel boxes per image share: which file is whose, and the rows of all of them.

The labels of `.../images/a/b.png` lie in `.../<folder>/a/b.txt`, or in a folder of that name beside or in that of the
image; a split `{images: folder, annotations: folder}` names both.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from data.data_yaml import Source
from data.formats.paths import image_files, label_file, read_text
from data.formats.yolo import split_images
from data.labels.scan_report import ScanReport
from utils.errors import UserError

ENOUGH = 10  # rows that decide on a format, of which some may be damaged
Parser = Callable[[str, str, ScanReport], list[tuple]]  # text, file, report -> rows


def label_folders(images: Path, name: str) -> list[Path]:
    """Folders with text files that may hold the labels of the images in a folder; `name`: a pattern for theirs.

    They may lie one folder deeper: archives unpacked into a folder of their own name.
    """
    for base, inside in (_above(images), (images.parent, ""), (images, "")):
        folders: list[Path] = []
        for top in (f for f in _folders(base) if re.fullmatch(name, f.name, re.IGNORECASE)):
            folders += [top / inside] if _has_text(top / inside) else [f / inside for f in _folders(top)]
        if folders := [f for f in folders if _has_text(f)]:
            return folders
    return []


def pairs(source: Source, name: str, report: ScanReport) -> list[tuple[str, str]]:
    """(image, label file) of every image of the split; the label file may be missing."""
    if source.image_folders:
        folders = list(zip(source.entries, source.image_folders, strict=True))
        images = [(image, labels / Path(image).parent.relative_to(folder))
                  for labels, folder in folders for image in image_files(folder)]
    else:
        listed = split_images(source, report)
        places = {folder: _labels_of(source, folder, name) for folder in {Path(image).parent for image in listed}}
        images = [(image, places[Path(image).parent]) for image in listed]
    there = {folder: _texts(folder) for folder in {folder for _, folder in images}}
    stems = [Path(image).stem for image, _ in images]
    return [(image, str(folder / there[folder].get(stem, f"{stem}.txt")))
            for (image, folder), stem in zip(images, stems, strict=True)]


def inputs(source: Source, found: list[tuple[str, str]]) -> list[str]:
    """The files that a split depends on: its lists, and these (image, label file) pairs."""
    return [str(e) for e in source.entries if e.is_file()] + [path for pair in found for path in pair]


def sniff(entry: Path, images: Sequence[str], name: str, is_row: Callable[[str], bool | None]) -> bool:
    """Whether the labels of some images are of a format. `labels` as of YOLO come first: data sets are converted in
    place. is_row: of a line; None where it says nothing.
    """
    files = list(filter(os.path.isfile, map(label_file, images)))  # Path raises where one is too long
    if not files and images:
        folders = label_folders(Path(images[0]).parent, name)
        there = [(folder, _texts(folder)) for folder in folders]
        files = [str(folder / names.get(Path(i).stem, "")) for folder, names in there for i in images]
    if not files or not any(map(os.path.isfile, files)):
        files = sorted(map(str, entry.glob("*.txt")))[:len(images)] if entry.is_dir() else []
    answers: list[bool] = []
    for file in files:
        with suppress(OSError):
            said = map(is_row, map(str.strip, read_text(file).splitlines()[:5]))
            answers += [answer for answer in said if answer is not None]
        if len(answers) >= ENOUGH:
            break
    return any(answers)


def read_rows(found: list[tuple[str, str]], parse: Parser, report: ScanReport) -> tuple[list[tuple[str, str]],
                                                                                        list[int], list[tuple]]:
    """The pairs whose label file can be read or is missing; the position of each row's pair; the rows."""
    kept: list[tuple[str, str]] = []
    position: list[int] = []
    rows: list[tuple] = []
    for image, file in found:
        try:
            text = read_text(file)
        except FileNotFoundError:
            report.add("missing_label", f"{file} for {image}")
            text = ""
        except OSError as error:
            report.add("corrupt_label", f"{file} ({error.strerror})")
            continue
        own = parse(text, file, report)
        position += [len(kept)] * len(own)
        rows += own
        kept.append((image, file))
    return kept, position, rows


def numbers(words: Sequence[str]) -> list[float]:
    """The words as finite numbers, none where one of them is not."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return []
    return values if all(abs(v) < 1e9 for v in values) else []


def plain(name: str) -> str:
    """A class name without what spellings differ in: capitals, hyphens, underscores and spaces."""
    return re.sub(r"[-_\s]+", "", name).lower()


def _labels_of(source: Source, images: Path, name: str) -> Path:
    """Where the labels of the images in a folder lie, or should lie."""
    found = label_folders(images, name) or label_folders(images, "labels")
    if len(found) > 1:
        raise UserError(f"{source.yaml}: several folders may hold the labels of {images}: "
                        f"{', '.join(map(str, found))}; say which, such as "
                        f"`{source.split}: {{images: {images}, annotations: {found[0]}}}`", "ambiguous-folder")
    if found or _has_text(images):
        return [*found, images][0]
    above, inside = _above(images)
    return above / name.removesuffix(".*") / inside


def _above(images: Path) -> tuple[Path, str]:
    """The folder that holds the last `images` of a path, and the path behind it."""
    before, found, inside = f"{images}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    return (Path(before or os.sep), inside) if found else (images.parent, "")


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(e.path) for e in os.scandir(folder) if e.is_dir())
    except OSError:
        return []


def _has_text(folder: Path) -> bool:
    return bool(_texts(folder))


def _texts(folder: Path) -> dict[str, str]:
    """Stem -> name of the text files in a folder, whatever the case of their suffix; none where there is no folder."""
    try:
        return {e.name[:-4]: e.name for e in os.scandir(folder) if e.name.lower().endswith(".txt")}
    except OSError:
        return {}
