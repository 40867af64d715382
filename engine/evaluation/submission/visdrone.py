"""VisDrone's results: a text file per image in a zip file, written and checked.

A row is left, top, width, height, score, category, -1, -1 (truncation and occlusion, which detectors do not say), as
https://github.com/VisDrone/VisDrone2018-DET-toolkit reads them; categories are 1 to 10. The toolkit counts the best 500
detections of an image.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import Index
from data.formats.parsing.pixel_rows import plain
from data.formats.visdrone import CLASSES
from engine.evaluation.metrics.found import Found
from engine.evaluation.submission.image_info import ImageInfo
from engine.evaluation.submission.image_names import image_stems
from engine.evaluation.submission.packing import Bounded, open_zip, write_zip
from engine.evaluation.submission.report import Refused, Report, megabytes
from utils.errors import UserError, shown
from utils.files import write_bytes

MAX_DETECTIONS = 500
COLUMNS = 8
ROW_BYTES = 256  # more than any row; with all digits of a double it takes 140
MOST_IMAGES = 10_000  # where it is not known how many there are
SLACK = 0.01  # pixels by which a rounded box may pass the border


def visdrone_categories(index: Index) -> list[int]:
    """VisDrone's category of each class. Raises `UserError` for a class that is none of its ten."""
    if index.source.format == "visdrone":
        return [int(category) for category in index.category_ids]
    known = {plain(name): k for k, name in enumerate(CLASSES, 1)}
    foreign = next((name for name in index.names if plain(name) not in known), None)
    if foreign is not None:
        raise UserError(f"--save-visdrone: {shown(foreign)} is no class of VisDrone; its classes are "
                        f"{', '.join(CLASSES)}", "unknown-class")
    return [known[plain(name)] for name in index.names]


def write_visdrone(found: Found, index: Index, folder: Path, stem: str) -> Path:
    """Write <stem>/<image>.txt of every image that was looked at, scores descending, and <stem>.zip, which is returned.
    """
    categories, stems = visdrone_categories(index), image_stems(index, "--save-visdrone")
    found = found.best(MAX_DETECTIONS, by_class=False)
    order = np.lexsort((-found.scores, found.images))  # stable
    images, labels, boxes, scores = (x[order] for x in (found.images, found.labels, found.boxes, found.scores))
    seen = np.flatnonzero(found.seen).tolist()
    starts, ends = np.searchsorted(images, seen), np.searchsorted(images, seen, side="right")
    files = []
    for place, start, end in zip(seen, starts.tolist(), ends.tolist(), strict=True):
        rows = zip(boxes[start:end].tolist(), scores[start:end].tolist(), labels[start:end].tolist(), strict=True)
        text = "".join(f"{left:.3f},{top:.3f},{width:.3f},{height:.3f},{score:.5f},{categories[label]},-1,-1\n"
                       for (left, top, width, height), score, label in rows)
        files.append(folder / stem / f"{stems[index.truth.record_ids[place]]}.txt")
        write_bytes(files[-1], text.encode())
    write_zip(folder / f"{stem}.zip", files)
    return folder / f"{stem}.zip"


def check_visdrone(path: Path | str, info: ImageInfo | None = None) -> Report:
    """Check a zip file, or a folder, of VisDrone's results. info: the images, by their `names`; without it the names of
    the files and the borders of images are not checked, and the report says so."""
    path = Path(path)
    report = Report(path, "VisDrone results")
    images = len(info.names) if info else MOST_IMAGES
    place = info.stems if info else {}
    rows, most, stems = 0, 0, set()
    try:
        for name, data in _files(path, images * MAX_DETECTIONS * ROW_BYTES):
            stem = name.removesuffix(".txt")
            stems.add(stem)
            if info and stem not in place:
                report.add("unknown-image", f"{name}: {info.file} has no image of that name")
            size = info.sizes[place[stem]] if info and stem in place else np.full(2, np.nan)
            count = _check_file(name, data, size, report)
            rows, most = rows + count, max(most, count)
    except Refused as refusal:
        report.add(refusal.code, str(refusal))
        return report
    report.facts.append(f"{rows:,} detections in {len(stems):,} files, at most {most:,} in one")
    if path.is_file():
        report.facts.append(f"zip {megabytes(path.stat().st_size)}")
    if not rows:
        report.add("empty", "there is no detection at all; check the weights and --conf-thres")
    if info is None:
        report.notes.append("names of images, borders and unseen images were not checked: give the images' folder too")
    unseen = [stem for stem in place if stem not in stems]
    if unseen:
        report.add("unseen-image", f"{unseen[0]}.txt is missing; an image without detections has an empty file",
                   len(unseen))
    return report


def _files(path: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each text file."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            _check_name(file.name)
            with file.open("rb") as source:
                yield file.name, _whole(Bounded(source, most, file.name))
        return
    if not path.is_file():
        raise Refused("missing", "there is no such file")
    with open_zip(path, most) as archive:
        for name in archive.namelist():
            _check_name(name)
            with archive.open(name) as source:
                yield name, _whole(Bounded(source, most, name))


def _whole(source: Bounded) -> bytes:
    return b"".join(iter(source.read, b""))


def _check_name(name: str) -> None:
    if not name.endswith(".txt"):
        raise Refused("bad-member", f"{shown(name, 80)} does not belong there: only <image>.txt files do")


def _check_file(name: str, data: bytes, size: np.ndarray, report: Report) -> int:
    """Check the rows of an image of size (width, height), NaN where it is not known; returns their number."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    table = np.zeros((len(lines), COLUMNS))
    good = np.zeros(len(lines), bool)
    for k, line in enumerate(lines):
        try:
            table[k] = [float(v) for v in line.strip().rstrip(",").split(",")]
            good[k] = True
        except ValueError:
            report.add("bad-row", f"{name} line {k + 1}: {shown(line, 80)} should be left,top,width,height,score,"
                                  f"category,-1,-1")
    boxes, scores, kinds = table[:, :4], table[:, 4], table[:, 5]
    finite = good & np.isfinite(table).all(1)
    with np.errstate(invalid="ignore"):
        ends = boxes[:, :2] + boxes[:, 2:]
        outside = (boxes[:, :2] < -SLACK).any(1) | (ends > size + SLACK).any(1)
    for code, fault, what in (
            ("not-finite", good & ~finite, "not every number is finite"),
            ("unknown-category", finite & ~np.isin(kinds, range(1, len(CLASSES) + 1)), "the category is not 1 to 10"),
            ("bad-score", finite & ((scores < 0) | (scores > 1)), "the score is outside [0, 1]"),
            ("negative-side", finite & (boxes[:, 2:] < 0).any(1), "width or height is negative"),
            ("outside-image", finite & outside, "the box is not inside the image")):
        if fault.any():
            k = int(fault.argmax())
            report.add(code, f"{name} line {k + 1}: {what}: {shown(lines[k], 80)}", int(fault.sum()))
    if len(lines) > MAX_DETECTIONS:
        report.add("too-many", f"{name} has {len(lines):,} rows; the toolkit counts the best {MAX_DETECTIONS}")
    return len(lines)
