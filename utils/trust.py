"""Which TorchScript files `export.py` wrote for this user: their digests are noted in the user's own cache folder,
where no file that comes from elsewhere can put one."""

import hashlib
import os
from pathlib import Path


def _note(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read()).hexdigest()  # Python 3.10
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "assn" / "exported" / digest


def remember(path: Path) -> bool:
    """Note a file as written here. False where the cache folder cannot be written to."""
    try:
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return False
    return True


def is_own(path: Path) -> bool:
    """Whether a file, byte by byte, is one that was noted."""
    try:
        return _note(path).is_file()
    except (OSError, RuntimeError):
        return False
