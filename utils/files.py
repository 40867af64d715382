"""Writing files whole or not at all; reading none but files."""

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


def read_blocks(path: str, most: int | None = None, block: int = 1 << 20) -> Iterator[bytes]:
    """The bytes of a file in blocks; `OSError` where it is none, or larger than `most` bytes.

    Pipes and devices are refused, and not waited for. Bare system calls: there may be 100k files.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a folder, pipe or device, no file", path)
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", path)
        while content := os.read(handle, min(block, status.st_size + 1)):
            yield content
    finally:
        os.close(handle)


def read_plain(path: str, most: int) -> bytes:
    """All bytes of a file of at most `most` bytes; errors as of `read_blocks`."""
    return b"".join(read_blocks(path, most))
