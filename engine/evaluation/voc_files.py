"""The results files of the VOC evaluation server: comp4_det_test_<class>.txt, packed as the server takes them."""

import gzip
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data import Index
from engine.evaluation.metrics.found import Found
from utils.errors import UserError, shown
from utils.files import replacing, write_bytes

COMPETITION = "comp4"  # detection, trained on any data but the test set; comp3 is VOC's own data alone
YEAR = "VOC2012"  # the last year, for images in no folder VOC<year>


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
    split, paths = index.source.split, {record.image_id: record.path for record in index.records}
    stems = {image_id: Path(path).stem for image_id, path in paths.items()}
    stem, count = Counter(stems.values()).most_common(1)[0]
    if count > 1 or len(stems) < len(index.records):
        raise UserError(f"--save-voc: {max(count, 2)} images of `{split}:` are named {shown(stem)}, and VOC's files "
                        f"name images by that alone; evaluate one folder at a time", "repeated-name")
    spaced = next((path for image_id, path in paths.items() if re.search(r"\s", stems[image_id])), None)
    if spaced:
        raise UserError(f"--save-voc: {spaced} has a space in its name, and VOC's files have spaces between their "
                        f"columns; rename it", "bad-name")
    wrong = next((name for name in index.names if PurePosixPath(name).name != name or "\\" in name), None)
    if wrong:
        raise UserError(f"--save-voc: the class {shown(wrong)} cannot be part of a file name; rename it in `names:`",
                        "bad-name")
    years = sorted({year[-1] for path in paths.values() if (year := re.findall(r"(?<=/)VOC\d{4}(?=/)", path))})
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
