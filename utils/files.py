"""Writing files whole or not at all; reading none but files."""

import contextlib
import errno
import io
import os
import stat
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


def open_plain(path: str) -> tuple[io.FileIO, int]:
    """A file opened for reading, and its size. `OSError` for pipes and devices, which are not waited for."""
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a folder, pipe or device, no file", path)
    return file, status.st_size


def read_plain(path: str, most: int) -> bytes:
    """The bytes of a file of at most `most` bytes; `OSError` where it is larger or no file."""
    file, size = open_plain(path)
    with file:
        if size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", path)
        return file.read()
