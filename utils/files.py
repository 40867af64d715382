"""Atomic writing of files, and reading of regular files only."""

import contextlib
import errno
import functools
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.errors import UserError
from utils.signals import lives

TEMPORARY = re.compile(r"\..*\.(\w+)-(\d+)\.\w+(?:\.\w+)?")  # what `prefix` begins
DAY = 86400.0  # seconds


@contextlib.contextmanager
def replacing(path: Path | str, keep: Path | str | None = None) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it, synced to disk, when the block ends.

    After an error in the block the temporary file is removed and `path` is unchanged. Temporary files of killed
    processes are removed by the next process that writes to the folder. keep: path that the old content is moved to.
    Creates the folder. Raises `OSError`.
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


@contextlib.contextmanager
def replacing_folder(path: Path, ours: Callable[[str], bool]) -> Iterator[Path]:
    """A temporary folder beside `path` that replaces it when the block ends; after an error `path` is unchanged.

    ours: whether a file of this name belongs there. Raises `OSError`, for a folder that holds others too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    others = [entry.name for entry in path.iterdir() if not ours(entry.name)] if path.is_dir() else []
    if others:
        raise OSError(errno.ENOTEMPTY, f"it holds {others[0]}, which would be lost", str(path))
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix(path.stem), suffix="_openvino_model"))
    old = temporary.with_name(f"{temporary.name}-old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def prefix(stem: str) -> str:
    """Prefix of the names of temporary files and folders: names the host and process that is writing."""
    return f".{stem[:40]}.{_host()}-{os.getpid()}."


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())[:40] or "host"


@functools.cache
def sweep(folder: Path) -> None:
    """Remove temporary files (`prefix`) of killed processes from a folder, once per process. Those of other machines
    are kept for a day, since their processes cannot be checked."""
    left: list[tuple[os.DirEntry, re.Match]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [(entry, found) for entry in entries if (found := TEMPORARY.fullmatch(entry.name))]
    for entry, found in left:
        with contextlib.suppress(OSError):
            if not (lives(int(found[2])) if found[1] == _host() else time.time() - entry.stat().st_mtime < DAY):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else Path(entry.path).unlink()


def _set_aside(path: Path, keep: Path) -> None:
    """Hard-link the file at `path` to `keep`, so that `path` exists at every moment."""
    if not path.is_file():
        return
    link = keep.with_name(f"{prefix(keep.stem)}link{keep.suffix}")
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links: `path` is missing for a moment
        path.replace(keep)
        return
    link.replace(keep)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically; creates the folder. Raises `UserError` if that fails."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", "unwritable-file") from None


def open_regular(path: str) -> tuple[int, int]:
    """The descriptor of a regular file opened for reading, and its size.

    Raises `OSError` for anything else; pipes and devices are refused without blocking.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode):
        return handle, status.st_size
    os.close(handle)
    raise OSError(errno.EINVAL, "a folder, pipe or device, not a file", path)


def read_blocks(path: str, most: int | None = None, block: int = 1 << 20) -> Iterator[bytes]:
    """The bytes of a regular file in blocks. Raises `OSError` as `open_regular` or if it has more than `most` bytes.

    Plain system calls, since a dataset may have 100k label files.
    """
    handle, size = open_regular(path)
    try:
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", path)
        while content := os.read(handle, min(block, size + 1)):
            yield content
    finally:
        os.close(handle)


def read_plain(path: str, most: int) -> bytes:
    """All bytes of a file of at most `most` bytes; errors as of `read_blocks`."""
    return b"".join(read_blocks(path, most))
