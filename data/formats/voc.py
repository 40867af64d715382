"""Pascal VOC: one XML per image, listed by ImageSets/Main/<split>.txt, or a folder of images and XML files.

VOC counts pixels from 1 and includes the last one, so xmin..xmax covers the continuous span (xmin - 1, xmax). Files
that state a wrong size, name or folder are common: the image itself and the file's own path count.
"""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from data.data_yaml import Source
from data.formats.parsing.voc_xml import parse_xml
from data.formats.paths import IMAGE_SUFFIXES, image_files, read_lines
from data.formats.raw_labels import RawLabels
from data.labels.scan_report import ScanReport
from utils.errors import UserError, nearest
from utils.files import read_plain

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGES = ("JPEGImages", "images", "Images")  # folders of images beside Annotations
LARGEST = 1 << 26  # bytes of an XML file
FEW = 3  # sides at 0 from which files may count from 0; fewer are slips


def recognises(entry: Path, images: list[str]) -> bool:
    """A list in ImageSets or beside Annotations, a folder with Annotations, or images with XML files beside them."""
    if entry.is_file():
        root = entry.parent
        return "ImageSets" in (root.name, root.parent.name) or (
            (root / "Annotations").is_dir() and not (root / "labels").is_dir()
            and any(os.path.isfile(xml) for _, xml in _listed(entry)[:1]))  # noqa: PTH113  Path raises for long names
    if (entry / "Annotations").is_dir() or (entry.name == "Annotations" and any(entry.glob("*.xml"))):
        return True
    return bool(images) and os.path.isfile(Path(images[0]).with_suffix(".xml"))  # noqa: PTH113


def inputs(source: Source) -> list[str]:
    """Lists, images and XML files."""
    pairs = _pairs(source, ScanReport())
    return [str(e) for e in source.entries] + [p for pair in pairs for p in pair]


def read(source: Source, report: ScanReport, polygons: bool = False) -> RawLabels:
    """All objects of a split; `difficult` ones are ignore regions unless the YAML says `difficult: keep`.

    polygons: as in the other formats; VOC's XML has none.
    """
    pairs = _pairs(source, report)
    if source.names is None or len(set(source.names)) != len(source.names):
        problem = "no `names`" if source.names is None else "a name twice in `names`"
        raise UserError(f"{source.yaml}: {problem}; add a line such as `names: [{', '.join(_found_names(pairs))}]`",
                        "no-classes")
    to_label = {name: label for label, name in enumerate(source.names)}
    kept: list[tuple[str, str]] = []
    sizes: list[tuple[int, int]] = []
    rows: list[tuple[int, int, bool, int]] = []  # image, label, ignore, object
    boxes: list[list[float]] = []
    for image, xml in pairs:
        root = _open(image, xml, source.names, report)
        if root is None:
            continue
        kept.append((image, xml))
        sizes.append(_size(root))
        _check_claims(root, image, xml, report)
        for number, item in enumerate(root.iter("object"), 1):
            where = f"{xml} object {number}"
            corners, name = _corners(item), (item.findtext("name") or "").strip()
            if corners is None or not name:
                report.add("corrupt_row", f"{where} has no " + ("`name`" if corners else "`bndbox` of four numbers"))
                continue
            label = to_label.get(name, -1)
            if label < 0:
                hint = nearest(name, source.names)
                report.add("bad_class", f"{where}, {name!r}" + (f"; {hint}" if hint else " is not among `names`"))
                continue
            rows.append((len(kept) - 1, label, source.difficult != "keep" and _is_difficult(item), number))
            boxes.append(corners)
    report.notes += source.notes
    if boxes and max(map(max, boxes)) <= 1:
        i = rows[0]
        raise UserError(f"{kept[i[0]][1]} object {i[3]}: `bndbox` {boxes[0]} should be in pixels, and in this whole "
                        f"split no number is above 1: they are fractions of the image; multiply them by its size",
                        "wrong-units")
    image, label, ignore, number = np.array(rows, np.int64).reshape(-1, 4).T
    stated_sizes = np.array(sizes, np.int64).reshape(-1, 2)
    spans = _continuous(np.array(boxes, np.float64).reshape(-1, 4), stated_sizes[image], report)
    return RawLabels(paths=[p for p, _ in kept], label_files=[x for _, x in kept], stated_sizes=stated_sizes,
                     image=image, boxes=spans, labels=label, ignore=ignore.astype(bool), rows=number,
                     names=source.names, row_name="object")


def _open(image: str, xml: str, names: list[str], report: ScanReport) -> ET.Element | None:
    """The root of an XML file, an empty one where there is no file, None where it cannot be read."""
    try:
        root, encoding = parse_xml(read_plain(xml, LARGEST), names)
    except FileNotFoundError:
        report.add("missing_label", f"{xml} for {image}")
        return ET.Element("annotation")
    except (OSError, ET.ParseError) as error:
        report.add("corrupt_label", f"{xml} ({getattr(error, 'strerror', None) or error})")
        return None
    if encoding:
        report.add("wrong_encoding", f"{xml} {encoding}")
    return root


def _pairs(source: Source, report: ScanReport) -> list[tuple[str, str]]:
    """(image, XML) of every image of the split; the image may be missing."""
    pairs: dict[str, str] = {}
    for number, entry in enumerate(source.entries):
        if source.image_folders:
            folder = source.image_folders[number]
            found = [(p, str(entry / Path(p).relative_to(folder).with_suffix(".xml"))) for p in image_files(folder)]
        else:
            found = _listed(entry) if entry.is_file() else _in_folder(entry)
        for image, xml in found:
            if image in pairs:
                report.add("repeated_image", image)
            capitals = f"{xml[:-4]}.XML"
            pairs[image] = capitals if not os.path.exists(xml) and os.path.exists(capitals) else xml  # noqa: PTH110
    return list(pairs.items())


def _listed(entry: Path) -> list[tuple[str, str]]:
    """Pairs named by ImageSets/Main/<split>.txt or a list beside Annotations: a stem, a file name, a path, or an image
    and its XML per line.

    A column of -1, 0 or 1, as in the lists per class, is ignored.
    """
    root = next((p.parent for p in (entry.parent, entry.parent.parent) if p.name == "ImageSets"), entry.parent)
    folder = _images_of(root)
    files = image_files(folder)
    images = {Path(p).stem: p for p in reversed(files)}  # of a.jpg and a.png the first, where a list says only a
    images.update((Path(p).name, p) for p in files)
    found = []
    for line in read_lines(entry):
        place = re.sub(r"\s+-?[01]$", "", line).replace("\\", "/")
        both = re.fullmatch(r"(.+\.\w+)\s+(.+\.xml)", place, re.IGNORECASE)
        if both:
            found.append((str(root / both[1]), str(root / both[2])))
            continue
        name = place.rpartition("/")[2]
        stem = Path(name).stem if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, ".xml") else name
        image = images.get(name) or images.get(stem, str(folder / f"{stem}.jpg"))
        found.append((image, str(root / "Annotations" / f"{stem}.xml")))
    return found


def _in_folder(folder: Path) -> list[tuple[str, str]]:
    """Pairs of a folder: Annotations and images in it or above it, or every image with its XML beside it."""
    root = folder.parent if folder.name in ("Annotations", *IMAGES) else folder
    if (root / "Annotations").is_dir() and _images_of(root).is_dir():
        return [(p, str(root / "Annotations" / f"{Path(p).stem}.xml")) for p in image_files(_images_of(root))]
    return [(p, str(Path(p).with_suffix(".xml"))) for p in image_files(folder)]


def _images_of(root: Path) -> Path:
    return next((root / name for name in IMAGES if (root / name).is_dir()), root / IMAGES[0])


def _size(root: ET.Element) -> tuple[int, int]:
    try:
        height, width = (int(float(root.findtext(f"size/{word}") or 0)) for word in ("height", "width"))
    except (ValueError, OverflowError):
        return -1, -1  # claimed, and wrong
    return (height, width) if min(height, width) >= 0 and max(height, width) < 1 << 31 else (-1, -1)


def _check_claims(root: ET.Element, image: str, xml: str, report: ScanReport) -> None:
    name, folder, place = root.findtext("filename") or "", root.findtext("folder") or "", Path(image)
    if name and Path(name).stem != place.stem:
        report.add("wrong_name", f"{xml} says {name}")
    elif folder and folder not in (place.parent.name, place.parent.parent.name):
        report.add("wrong_name", f"{xml} says folder {folder}")


def _corners(item: ET.Element) -> list[float] | None:
    """xmin, ymin, xmax, ymax of an object, None where one is missing or no number."""
    try:
        corners = [float(item.findtext(f"bndbox/{corner}", "")) for corner in CORNERS]
    except ValueError:
        return None
    return corners if np.isfinite(sum(corners)) else None


def _is_difficult(item: ET.Element) -> bool:
    return (item.findtext("difficult") or "").strip().lower() in ("1", "1.0", "true", "yes")


def _continuous(corners: np.ndarray, sizes: np.ndarray, report: ScanReport) -> np.ndarray:
    """(M, 4) corners as counted in the files -> continuous xyxy; sizes (M, 2): height and width of their images.

    VOC counts from 1 and includes the last pixel. Where more boxes begin at 0 than at 1, the files count from 0, and
    where more end one short of the image's size than at it, they include the last pixel. Corners that coincide are
    a mistake, not an object one pixel wide: they stay without area. Swapped ones stay swapped: the scan corrects and
    counts them.
    """
    first, last = np.sort(corners.reshape(-1, 2, 2), axis=1).transpose(1, 0, 2)  # (M, 2) each
    zeros, ones = int((first < 1).sum()), int(((first >= 1) & (first < 2)).sum())
    from_zero = zeros >= FEW and zeros > ones
    if from_zero:
        extent = sizes[:, ::-1]
        inclusive = (last == extent - 1).sum() > (last == extent).sum()
        last_pixel = "included" if inclusive else "not included"
        report.notes.append(f"{zeros} sides of boxes begin at 0 and {ones} at 1: read as counted from 0, the last "
                            f"pixel {last_pixel} (VOC counts from 1 and includes it)")
        wider = (first < last) & inclusive
        low, high = first, last + wider
    else:
        low, high = first - (first < last), last
    swapped = corners[:, :2] > corners[:, 2:]
    return np.concatenate((np.where(swapped, high, low), np.where(swapped, low, high)), 1)


def _found_names(pairs: list[tuple[str, str]]) -> list[str]:
    names = set()
    for _, xml in pairs[:2000]:
        try:
            root, _ = parse_xml(read_plain(xml, LARGEST))
            names |= {(n.text or "").strip() for n in root.findall("object/name")}
        except (OSError, ET.ParseError):
            continue
    return sorted(names - {""}) or ["person", "car"]
