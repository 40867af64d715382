"""Failed inputs, each a zip of its files named after kind, seed and number."""

import json
import zipfile
from pathlib import Path

from benchmarks.fuzzing.kind import Outcome
from utils.errors import UserError

MOST = 64 << 20  # bytes of a case that are kept
NOTE = "case.json"


def keep(outcome: Outcome, case: Path, folder: Path) -> Path | None:
    """Write the files of a failed case; None where they are too large, so that only its number tells it."""
    files = sorted(p for p in case.rglob("*") if p.is_file() and not p.is_symlink() and _nameable(p))
    if sum(p.stat().st_size for p in files) > MOST:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{outcome.case}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NOTE, json.dumps(outcome.plain(), indent=1))
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(Path("case") / file.relative_to(case))), file.read_bytes())
    return path


def _nameable(path: Path) -> bool:
    """Whether a zip can hold the name; results of an attempt may have others, inputs have not."""
    return str(path).encode("utf-8", "replace").decode() == str(path)


def unpack(file: Path, folder: Path) -> None:
    """The input of a case as it was."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.startswith("case/"):
                place = folder / name.removeprefix("case/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))


def cases(folder: Path) -> list[tuple[str, int, int, Path]]:
    """(kind, seed, number, file) of all cases. Raises `UserError` for a file that is none."""
    found = []
    for file in sorted(folder.glob("*.zip")):
        try:
            kind, seed, number = file.stem.rsplit("-", 2)
            found.append((kind, int(seed), int(number), file))
        except ValueError:
            raise UserError(f"{file}: expected KIND-SEED-NUMBER.zip, as this program writes it; move it away",
                            code="bad-file-name") from None
    return found
