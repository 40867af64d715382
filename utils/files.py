"""Writing files whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


@contextlib.contextmanager
def replacing(path: Path | str, keep: Path | str | None = None) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which takes its place, synced to the disk, once the block has ended.

    An error within the block removes it and leaves `path` as it was, so whatever happens `path` holds either what it
    held or the whole new content. keep: where the old content goes instead of away. Makes the folder; what the system
    refuses is its `OSError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, which would hide results from other users
        if keep is not None:
            _set_aside(path, Path(keep))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _set_aside(path: Path, keep: Path) -> None:
    """Give the file at `path` the name `keep` too, so that there is no moment without it."""
    if not path.is_file():
        return
    link = keep.with_name(f".{keep.name}.{os.getpid()}")
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without links: for a moment only `keep` is there
        path.replace(keep)
        return
    link.replace(keep)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file so that `path` holds either what it held or the whole new content; makes the folder.

    Raises `UserError` where that is not possible.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
