"""Which files that hold programs `export.py` wrote for this user: their digests are stored in the user's cache folder,
which a downloaded file cannot write to."""

import hashlib
import os
from pathlib import Path

from utils.errors import UserError


def _digest_file(path: Path) -> Path:
    """The empty file that stands for the digest of `path`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read()).hexdigest()  # Python 3.10
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "assn" / "exported" / digest


def remember(path: Path) -> bool:
    """Store the digest of a file. False if the cache folder is not writable."""
    try:
        entry = _digest_file(path)
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.touch()
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return False
    return True


def is_own(path: Path) -> bool:
    """Whether the digest of a file was stored."""
    try:
        return _digest_file(path).is_file()
    except (OSError, RuntimeError):
        return False


def check_own(path: Path, what: str, trust: bool) -> None:
    """Raises `UserError` for a file that `export.py` did not write, unless it is trusted; what: it is, in words."""
    if not trust and not is_own(path):
        raise UserError(f"{path}: is {what}, which runs when it is loaded, and export.py did not write it for "
                        "this user on this machine; --trust runs it all the same, export.py makes one from the "
                        "checkpoint, and .onnx holds no program", "untrusted-file")
