"""Writing files whole or not at all."""

import os
import tempfile
from pathlib import Path

from utils.errors import UserError


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file so that `path` holds either what it held or the whole new content; makes the folder.

    Raises `UserError` where that is not possible.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).chmod(0o644)  # mkstemp gives 0600, which would hide results from other users
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
