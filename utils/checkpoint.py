"""Checkpoints as plain data: tensors, numbers, strings and containers of them; reading executes nothing."""

import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.archive import open_archive
from utils.config import MAX_CLASSES
from utils.errors import UserError
from utils.files import replacing
from utils.pickles import Record, StoredTensor

FORMAT = "assn/1"
MAX_OBJECTS, MAX_DEPTH = 2_000_000, 40  # in a checkpoint; one of the largest model has some 20,000, 8 deep
_OURS = re.compile(rb"X\x06\0\0\0format.{0,6}?X.\0\0\0assn/", re.S)  # "format": "assn/..." as torch pickles it


def save_checkpoint(content: dict[str, Any], path: Path | str, keep: Path | str | None = None) -> None:
    """Write `content` atomically: `path` holds either the old file or the whole new one.

    keep: where the old file is moved to, as a fallback for a new one that is damaged later. Raises `UserError` if the
    disk is full or the folder not writable; the previous file is then untouched.
    """
    path = Path(path)
    try:
        with replacing(path, keep) as temporary, temporary.open("wb") as file:  # a path would be stored in the file
            torch.save({"format": FORMAT, **content}, file)
    except (OSError, RuntimeError) as error:
        full = shutil.disk_usage(path.parent).free < 1 << 20  # torch has no error of its own for a full disk
        stopped = "writing stopped midway; is a quota or a limit of the file size reached?"
        reason = "the disk is full" if full else getattr(error, "strerror", None) or stopped
        raise UserError(f"{path}: could not be written ({reason}); the previous file is untouched",
                        "unwritable-file") from error


def is_ours(path: Path | str) -> bool:
    """Whether a file claims to be a checkpoint of this project; searches its bytes, unpickles nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(entry) as file:
                return bool(_OURS.search(file.read(1 << 26)))
    except (OSError, zipfile.BadZipFile, StopIteration, RuntimeError, NotImplementedError, ValueError, EOFError,
            zlib.error):  # a damaged archive, which `open_archive` reports
        return False


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint of this project onto the CPU.

    Raises `UserError` for a missing, truncated, damaged, foreign or newer file. All bytes are compared with the
    archive's checksums, and no name in the file is imported or called.
    """
    with open_archive(path) as content:
        written = content.get("format") if isinstance(content, dict) else None
        if not isinstance(written, str) or not written.startswith("assn/"):
            foreign = next((v for v in content.values() if isinstance(v, Record)), None) if isinstance(content, dict) \
                else content
            if isinstance(foreign, Record):
                raise _foreign(path, foreign)
            raise UserError(f"{path}: not a checkpoint of this project (it has no `format` entry)",
                            "not-a-checkpoint")
        if written != FORMAT:
            raise UserError(f"{path}: written as {written[:20]}, this version reads {FORMAT}; update the project",
                            "newer-checkpoint")
        return _Plain(Path(path)).load(content)


def read_weights(path: Path | str) -> tuple[dict[str, Any], list[str], dict[str, Tensor]]:
    """Model config, class names and state dict of a checkpoint of this project. Raises `UserError` if one is missing or
    of another type."""
    content = load_checkpoint(path)
    for key, kind, inner in (("config", dict, object), ("names", list, str), ("model", dict, Tensor)):
        value = content.get(key)
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(v, inner) for v in values):
            raise UserError(f"{path}: damaged: its `{key}` is not the {kind.__name__} of {inner.__name__}s that a "
                            "checkpoint holds; use another checkpoint", "corrupt-checkpoint")
    if len(content["names"]) > MAX_CLASSES or max(map(len, content["names"]), default=0) > 1000:
        raise UserError(f"{path}: {len(content['names']):,} class names, or one of more than 1000 letters; at most "
                        f"{MAX_CLASSES:,} are read", "too-large")
    if not all(isinstance(key, str) for part in ("config", "model") for key in content[part]):
        raise UserError(f"{path}: damaged: its `config` or `model` has keys that are no names; use another checkpoint",
                        "corrupt-checkpoint")
    return content["config"], content["names"], content["model"]


def _foreign(path: Path | str, value: Any) -> UserError:
    name = str(getattr(value, "path", None) or type(value).__name__)
    return UserError(f"{path}: holds Python objects ({name[:80]}), not plain data, so it is not opened; it was not "
                     "saved by this project (a model pickled by another code base?)", "not-a-checkpoint")


class _Plain:
    """Converts what an archive holds to plain containers and tensors; a tensor that occurs twice is read twice."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def load(self, value: Any, depth: int = 0) -> Any:
        self.count += 1
        if self.count > MAX_OBJECTS or depth > MAX_DEPTH:
            raise UserError(f"{self.path}: holds more than {MAX_OBJECTS:,} objects, or more than {MAX_DEPTH} inside "
                            "each other, as no checkpoint of this project does", "too-large")
        if isinstance(value, StoredTensor):
            return value.load(keep_strides=True)
        if isinstance(value, dict):
            return {self.load(k, depth + 1): self.load(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.load(v, depth + 1) for v in value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise _foreign(self.path, value)
