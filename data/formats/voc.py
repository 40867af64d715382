"""Pascal VOC: one XML per image, listed by ImageSets/Main/<split>.txt, or a folder of images and XML files.

VOC counts pixels from 1 and includes the last one, so xmin..xmax covers the continuous span (xmin - 1, xmax). Files
that claim a wrong size, name or folder are common; the image itself and the file's own place are believed.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from data.formats.raw import Unchecked, ids_from_names, image_files, read_lines
from data.report import ScanReport
from data.source import Source
from utils.errors import UserError, nearest

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognises(entry: Path, images: list[str]) -> bool:
    """A list in ImageSets, a folder with Annotations, or images with XML files beside them."""
    if entry.is_file():
        return entry.parent.parent.name == "ImageSets"
    if (entry / "Annotations").is_dir() or (entry.name == "Annotations" and any(entry.glob("*.xml"))):
        return True
    return bool(images) and Path(images[0]).with_suffix(".xml").exists()


def inputs(source: Source) -> list[str]:
    """Lists, images and XML files."""
    pairs = _pairs(source, ScanReport())
    return [str(e) for e in source.entries] + [p for pair in pairs for p in pair]


def read(source: Source, report: ScanReport, polygons: bool = False) -> Unchecked:
    """All objects of a split; `difficult` ones are ignore regions unless the YAML says `difficult: keep`.

    polygons: as in the other formats; VOC's XML has none.
    """
    pairs = _pairs(source, report)
    if source.names is None or len(set(source.names)) != len(source.names):
        problem = "no `names`" if source.names is None else "a name twice in `names`"
        raise UserError(f"{source.yaml}: {problem}; add a line such as `names: [{', '.join(_found_names(pairs))}]`")
    to_label = {name: label for label, name in enumerate(source.names)}
    kept: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    rows: list[tuple[int, int, bool, int]] = []  # image, label, ignore, object
    boxes: list[list[float]] = []
    for image, xml in pairs:
        try:
            root = parse_xml(Path(xml))
        except FileNotFoundError:
            report.add("missing_label", f"{xml} for {image}")
            root = ET.Element("annotation")
        except (OSError, ET.ParseError) as error:
            report.add("corrupt_label", f"{xml} ({error})")
            continue
        kept.append((image, xml))
        sizes.append(_size(root))
        _check_claims(root, image, xml, report)
        for number, item in enumerate(root.iter("object"), 1):
            where = f"{xml} object {number}"
            box = _box(item)
            if box is None:
                report.add("corrupt_row", where)
                continue
            name = (item.findtext("name") or "").strip()
            label = to_label.get(name, -1)
            if label < 0:
                hint = nearest(name, source.names)
                report.add("bad_class", f"{where}, {name!r}" + (f"; {hint}" if hint else " is not among `names`"))
                continue
            ignore = source.difficult == "ignore" and (item.findtext("difficult") or "").strip() == "1"
            rows.append((len(kept) - 1, label, ignore, number))
            boxes.append(box)
    report.notes += source.notes
    image, label, ignore, number = np.array(rows, np.int64).reshape(-1, 4).T
    paths = [p for p, _ in kept]
    names = source.names
    return Unchecked(paths, [x for _, x in kept], ids_from_names(paths), np.array(sizes, np.int64).reshape(-1, 2),
                     image, np.array(boxes, np.float64).reshape(-1, 4), label, ignore.astype(bool),
                     np.full(len(rows), np.nan), np.arange(1, len(rows) + 1), number, names,
                     list(range(1, len(names) + 1)), row_word="object")


def parse_xml(path: Path) -> ET.Element:
    """The root of an XML file. A document type, the door to entities that expand without end, is refused."""
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"\x00" in content[:64]:  # a NUL: UTF-16 or -32, where the word would hide
        raise ET.ParseError("has a document type or is not UTF-8; VOC files need neither")
    return ET.fromstring(content)


def _pairs(source: Source, report: ScanReport) -> list[tuple[str, str]]:
    """(image, XML) of every image of the split; the image may be missing."""
    pairs: dict[str, str] = {}
    for entry in source.entries:
        if entry.is_file():
            found = _listed(entry)
        else:
            found = _in_folder(entry)
        for image, xml in found:
            if image in pairs:
                report.add("repeated_image", image)
            pairs[image] = xml
    return list(pairs.items())


def _listed(entry: Path) -> list[tuple[str, str]]:
    """Pairs named by ImageSets/Main/<split>.txt; a second column, as in the lists per class, is left aside."""
    root = entry.parent.parent.parent if entry.parent.parent.name == "ImageSets" else entry.parent
    images = {Path(p).stem: p for p in image_files(root / "JPEGImages")}
    stems = [re.sub(r"\s+-?[01]$", "", line) for line in read_lines(entry)]
    return [(images.get(s, str(root / "JPEGImages" / f"{s}.jpg")), str(root / "Annotations" / f"{s}.xml"))
            for s in stems]


def _in_folder(folder: Path) -> list[tuple[str, str]]:
    """Pairs of a folder: Annotations and JPEGImages in it or above it, or every image with its XML beside it."""
    root = folder.parent if folder.name in ("Annotations", "JPEGImages") else folder
    if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        return [(p, str(root / "Annotations" / f"{Path(p).stem}.xml")) for p in image_files(root / "JPEGImages")]
    return [(p, str(Path(p).with_suffix(".xml"))) for p in image_files(folder)]


def _size(root: ET.Element) -> tuple[int, int]:
    try:
        return int(float(root.findtext("size/height", "0"))), int(float(root.findtext("size/width", "0")))
    except (ValueError, OverflowError):
        return -1, -1  # claimed, and wrong


def _check_claims(root: ET.Element, image: str, xml: str, report: ScanReport) -> None:
    name, folder, place = root.findtext("filename") or "", root.findtext("folder") or "", Path(image)
    if name and Path(name).stem != place.stem:
        report.add("wrong_name", f"{xml} says {name}")
    elif folder and folder not in (place.parent.name, place.parent.parent.name):
        report.add("wrong_name", f"{xml} says folder {folder}")


def _box(item: ET.Element) -> list[float] | None:
    """Continuous xyxy of an object, None where a corner is missing or no number."""
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{corner}", "")) for corner in CORNERS)
    except ValueError:
        return None
    if not np.isfinite(x1 + y1 + x2 + y2):
        return None
    # Corners that coincide are a slip of the hand, not an object one pixel wide: they stay without area. Swapped ones
    # stay swapped: the scan puts them right, and tells.
    return [x1 - (x2 > x1), y1 - (y2 > y1), x2 - (x1 > x2), y2 - (y1 > y2)]


def _found_names(pairs: list[tuple[str, str]]) -> list[str]:
    names = set()
    for _, xml in pairs[:2000]:
        try:
            names |= {(n.text or "").strip() for n in parse_xml(Path(xml)).findall("object/name")}
        except (OSError, ET.ParseError):
            continue
    return sorted(names) or ["person", "car"]
