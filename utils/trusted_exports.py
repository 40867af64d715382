"""Which TorchScript files `export.py` wrote for this user: their digests are stored in the user's cache folder, which a
downloaded file cannot write to."""

import hashlib
import os
from pathlib import Path


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
