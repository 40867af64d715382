"""The results files of the VOC evaluation server: comp4_det_test_<class>.txt, packed as the server takes them."""

import gzip
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data import Index
from engine.evaluation.metrics.found import Found
from engine.evaluation.submission.image_info import ImageInfo
from engine.evaluation.submission.image_names import image_stems
from engine.evaluation.submission.packing import Bounded
from engine.evaluation.submission.report import Refused, Report, megabytes
from utils.class_lists import VOC as CLASSES
from utils.errors import UserError, shown
from utils.files import replacing, write_bytes

COMPETITION = "comp4"  # detection, trained on any data but the test set; comp3 is VOC's own data alone
YEAR = "VOC2012"  # the last year, for images in no folder VOC<year>
MEMBER = re.compile(r"results/(VOC\d{4})/Main/(comp[34])_det_([A-Za-z0-9]+)_(.+)\.txt")
MOST = 1 << 30  # bytes of all files; 11,000 test images with 300 detections each take 200 MB
SLACK = 0.01  # pixels by which a rounded box may pass the border


@dataclass(frozen=True)
class VocNames:
    """How the files of a split are called: folder (VOC2012), image set (test), and the image's stem by its id."""

    year: str
    image_set: str
    stems: dict[int, str]


def voc_names(index: Index) -> VocNames:
    """The names of a split. Raises `UserError` where the server's form has no name for an image or a class.

    The year is that of the folder VOC<year> above the images, the image set is named by the list in ImageSets.
    """
    split, paths = index.source.split, [record.path for record in index.records]
    stems = image_stems(index, "--save-voc")
    wrong = next((name for name in index.names if PurePosixPath(name).name != name or "\\" in name), None)
    if wrong:
        raise UserError(f"--save-voc: the class {shown(wrong)} cannot be part of a file name; rename it in `names:`",
                        "bad-name")
    years = sorted({year[-1] for path in paths if (year := re.findall(r"(?<=/)VOC\d{4}(?=/)", path))})
    if len(years) > 1:
        raise UserError(f"--save-voc: `{split}:` has images of {' and '.join(years)}, and the server takes one year; "
                        f"evaluate one of them", "several-years")
    lists = [entry for entry in index.source.entries if "ImageSets" in entry.parts]
    return VocNames(years[0] if years else YEAR, lists[0].stem if len(lists) == 1 else split, stems)


def write_voc_files(found: Found, index: Index, folder: Path) -> Path:
    """Write results/<year>/Main/comp4_det_<set>_<class>.txt for every class, and results.tar.gz; returns the archive.

    A row is image, score, xmin, ymin, xmax, ymax, pixels counted from 1 and the last one included, as
    `data.formats.voc` reads them. The files hold the detections that the metrics are computed from, in that order.
    """
    names = voc_names(index)
    main = folder / "results" / names.year / "Main"
    stem_of = np.array([names.stems.get(image_id, "") for image_id in index.truth.record_ids], object)
    stems = stem_of[found.images]
    boxes = np.concatenate((found.boxes[:, :2] + 1, found.boxes[:, :2] + found.boxes[:, 2:]), 1)
    for label, name in enumerate(index.names):
        own = found.labels == label
        rows = zip(stems[own].tolist(), found.scores[own].tolist(), *boxes[own].T.tolist(), strict=True)
        text = "".join(f"{stem} {score:.5f} {x1:.3f} {y1:.3f} {x2:.3f} {y2:.3f}\n"
                       for stem, score, x1, y1, x2, y2 in rows)
        write_bytes(main / f"{COMPETITION}_det_{names.image_set}_{name}.txt", text.encode())
    archive = folder / "results.tar.gz"
    files = [main / f"{COMPETITION}_det_{names.image_set}_{name}.txt" for name in index.names]
    try:
        with replacing(archive) as temporary, temporary.open("wb") as raw, \
                gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed, \
                tarfile.open(fileobj=packed, mode="w") as tar:
            for file in files:
                tar.add(file, file.relative_to(folder).as_posix(), filter=_anonymous)
    except OSError as error:
        raise UserError(f"{archive}: cannot be written: {error.strerror}", "unwritable-file") from None
    return archive


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without user and time, so that equal detections give equal archives."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def check_voc(path: Path | str, info: ImageInfo | None = None) -> Report:
    """Check results.tar.gz, or the folder `results` that it holds.

    info: the images, by their `names`; without it the names of images and the borders are not checked, and the report
    says so. That an image was looked at cannot be told from files that list detections alone.
    """
    path = Path(path)
    report = Report(path, "VOC results")
    parts: Counter[tuple[str, str, str]] = Counter()  # year, competition, image set
    classes, rows, stems = [], 0, set()
    try:
        for name, data in _files(path):
            found = MEMBER.fullmatch(name)
            if not found:
                raise Refused("bad-member", f"{shown(name, 100)} does not belong there: only results/VOC<year>/Main/"
                                            f"comp<3 or 4>_det_<set>_<class>.txt do")
            parts[found.group(1, 2, 3)] += 1
            if found[4] in classes:
                raise Refused("bad-member", f"the class {found[4]} has two files; the server takes one year, one "
                                            f"competition and one image set")
            classes.append(found[4])
            rows += _check_rows(PurePosixPath(name).name, data, info, stems, report)
    except Refused as refusal:
        report.add(refusal.code, str(refusal))
        return report
    report.facts.append(f"{rows:,} detections of {len(classes)} classes in {len(stems):,} images")
    report.facts += [f"archive {megabytes(path.stat().st_size)}"] * path.is_file()
    if len(parts) > 1:
        report.add("bad-member", f"files of {' and '.join('/'.join(part) for part in parts)}; the server takes one of "
                                 f"them")
    absent = [name for name in CLASSES if name not in classes]
    if absent and len(absent) < len(CLASSES):
        report.add("missing-class", f"no file of {', '.join(absent)}; a class without detections has an empty file",
                   len(absent))
    if not rows:
        report.add("empty", "there is no detection at all; check the weights and --conf-thres")
    if info is None:
        report.notes.append("names of images and borders were not checked: give the list of images, or their folder")
    elif len(stems) < len(info.names):
        report.notes.append(f"{len(info.names) - len(stems):,} of {len(info.names):,} images have no detection")
    return report


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name from `results` on and content of each file of the archive or the folder; nothing is unpacked to disk."""
    if path.is_dir():
        left = MOST
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            with file.open("rb") as source:
                data = b"".join(iter(Bounded(source, left, file.name).read, b""))
            left -= len(data)
            yield (Path("results") / file.relative_to(path)).as_posix(), data
        return
    if not path.is_file():
        raise Refused("missing", "there is no such file")
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=Bounded(packed, MOST, path.name), mode="r|") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isfile():
                    raise Refused("bad-member", f"{shown(member.name, 80)} is a link or a device, not a file")
                yield member.name.removeprefix("./"), tar.extractfile(member).read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise Refused("damaged", f"no whole archive ({getattr(error, 'strerror', None) or error}); write it "
                                 f"again") from None


def _check_rows(name: str, data: bytes, info: ImageInfo | None, stems: set[str], report: Report) -> int:
    """Check the rows of a class, adding their images to `stems`; returns their number."""
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    table, good = np.zeros((len(lines), 5)), np.zeros(len(lines), bool)
    images = [line.split()[0] for line in lines]
    for k, line in enumerate(lines):
        try:
            table[k] = [float(value) for value in line.split()[1:]]
            good[k] = True
        except ValueError:
            report.add("bad-row", f"{name} line {k + 1}: {shown(line, 80)} should be image, score, xmin, ymin, xmax, "
                                  f"ymax")
    stems.update(images)
    place = np.array([info.stems.get(image, -1) if info else -1 for image in images], np.int64)
    finite = good & np.isfinite(table).all(1)
    boxes, size = table[:, 1:], np.full((len(lines), 2), np.nan)
    if info:
        size = np.where(place[:, None] < 0, np.nan, info.sizes[place])
    with np.errstate(invalid="ignore"):
        outside = (boxes[:, :2] < 1 - SLACK).any(1) | (boxes[:, 2:] > size + SLACK).any(1)
    for code, fault, what in (
            ("unknown-image", (place < 0) & (info is not None), f"{info.file if info else ''} has no such image"),
            ("not-finite", good & ~finite, "not every number is finite"),
            ("negative-side", finite & (boxes[:, 2:] < boxes[:, :2] - 1 - SLACK).any(1), "xmax or ymax is too small"),
            ("outside-image", finite & outside, "the box is not inside the image, pixels counted from 1")):
        if fault.any():
            k = int(fault.argmax())
            report.add(code, f"{name} line {k + 1}: {what}: {shown(lines[k], 80)}", int(fault.sum()))
    return len(lines)
