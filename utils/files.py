"""Writing files whole or not at all; reading none but files."""

import contextlib
import errno
import functools
import io
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError

TEMPORARY = re.compile(r"\..*\.(\w+)-(\d+)\.\w+(?:\.\w+)?")  # what `prefix` begins
DAY = 86400.0  # seconds


@contextlib.contextmanager
def replacing(path: Path | str, keep: Path | str | None = None) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which takes its place, synced to the disk, once the block has ended.

    An error within the block removes it and leaves `path` as it was, so whatever happens `path` holds either what it
    held or the whole new content. What a killed process left is removed by the next that writes to the folder. keep:
    where the old content goes instead of away. Makes the folder; what the system refuses is its `OSError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix(path.stem), suffix=path.suffix)
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


def prefix(stem: str) -> str:
    """How the name of a temporary file or folder begins: it says which process of which machine is writing."""
    return f".{stem[:40]}.{_host()}-{os.getpid()}."


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())[:40] or "host"


@functools.cache
def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, named by `prefix`; looked for once in the life of a process. What
    another machine began is believed to be in work for a day."""
    left: list[tuple[os.DirEntry, re.Match]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [(entry, found) for entry in entries if (found := TEMPORARY.fullmatch(entry.name))]
    for entry, found in left:
        with contextlib.suppress(OSError):
            if not (_lives(int(found[2])) if found[1] == _host() else time.time() - entry.stat().st_mtime < DAY):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _set_aside(path: Path, keep: Path) -> None:
    """Give the file at `path` the name `keep` too, so that there is no moment without it."""
    if not path.is_file():
        return
    link = keep.with_name(f"{prefix(keep.stem)}link{keep.suffix}")
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
