"""The check of results files alone: which server they are for, and whether it would take them."""

from pathlib import Path

from engine.evaluation.submission.coco_check import FILE_NAME, check_coco
from engine.evaluation.submission.image_info import read_image_info, read_images
from engine.evaluation.submission.packing import member_names
from engine.evaluation.submission.report import Report
from engine.evaluation.submission.visdrone import check_visdrone
from engine.evaluation.submission.voc import check_voc
from utils.errors import UserError

TAR = (".gz", ".tgz", ".tar")


def check(path: Path | str, info: Path | str | None = None) -> Report:
    """Check a results file: JSON or zip for COCO, a folder or zip of .txt files for VisDrone, results.tar.gz or its
    folder `results` for VOC.

    info: what the images are known from: COCO's image-info file; for the others the images' folder or a list of them.
    Raises `UserError` where `info` cannot be read, or the file is of no known form.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "coco":
        return check_coco(path, read_image_info(info) if info else None)
    return (check_visdrone if kind == "visdrone" else check_voc)(path, read_images(info) if info else None)


def print_check(path: Path | str, info: Path | str | None = None) -> None:
    """Print the report of `check`. Raises `UserError` where it has a problem."""
    report = check(path, info)
    print(report.format())
    if not report.is_clean:
        raise UserError(f"{path}: not to be uploaded: {', '.join(report.codes)}; correct what the report names",
                        "bad-submission")


def kind_of(path: Path) -> str:
    """"coco", "visdrone" or "voc": whose results a file or folder holds."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file; give a results file", "missing-file")
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        if any(name.endswith(".txt") for name in names):
            return "visdrone"
        if any(name.startswith("VOC") for name in names):
            return "voc"
    elif path.suffix in TAR:
        return "voc"
    elif path.suffix.lower() == ".zip":
        has_text = any(name.endswith(".txt") for name in member_names(path))
        return "visdrone" if has_text and not FILE_NAME.fullmatch(path.stem) else "coco"
    elif path.suffix.lower() == ".json":
        return "coco"
    raise UserError(f"{path}: no results file: give COCO's .json or .zip, VisDrone's .zip or folder of .txt files, or "
                    f"VOC's results.tar.gz or folder `results`", "unknown-format")
