"""Checkpoints as plain data: tensors, numbers, strings and containers of them; nothing in a file is ever executed."""

import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.files import replacing

FORMAT = "assn/1"
_OURS = re.compile(rb"X\x06\0\0\0format.{0,6}?X.\0\0\0assn/", re.S)  # "format": "assn/..." as torch pickles it


def save_checkpoint(content: dict[str, Any], path: Path | str, keep: Path | str | None = None) -> None:
    """Write `content` so that `path` holds either the old file or the whole new one, whatever happens meanwhile.

    keep: where the old file goes, so that there is one to fall back to should the new one be damaged later.
    Raises `UserError` where the disk is full or the folder not writable; the previous file is then untouched.
    """
    path = Path(path)
    try:
        with replacing(path, keep) as temporary, temporary.open("wb") as file:  # a path's name would get into the file
            torch.save({"format": FORMAT, **content}, file)
    except (OSError, RuntimeError) as error:
        full = shutil.disk_usage(path.parent).free < 1 << 20  # torch tells of a full disk in words of its own
        stopped = "writing stopped midway; is a quota or a limit of the file size reached?"
        reason = "the disk is full" if full else getattr(error, "strerror", None) or stopped
        raise UserError(f"{path}: could not be written ({reason}); the previous file is untouched") from error


def is_ours(path: Path | str) -> bool:
    """Whether a file says that it is a checkpoint of this project; its bytes are searched, nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(entry) as file:
                return bool(_OURS.search(file.read(1 << 26)))
    except (OSError, zipfile.BadZipFile, StopIteration, RuntimeError, NotImplementedError):
        return False


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises `UserError` that tells a missing, truncated, foreign or newer file apart.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: truncated or not a checkpoint ({path.stat().st_size:,} bytes); copy or save it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(f"{path}: holds Python objects{f' ({asked[1]})' if asked else ''}, not plain data, so it is "
                        "not opened; it was not saved by this project (a model pickled by another code base?)"
                        ) from None
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise UserError(f"{path}: truncated or corrupt checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not str(content.get("format", "")).startswith("assn/"):
        raise UserError(f"{path}: not a checkpoint of this project (it has no `format` entry)")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: written as {content['format']}, this version reads {FORMAT}; update the project")
    return content
