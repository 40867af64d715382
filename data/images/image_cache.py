"""All images of a dataset, decoded once: in memory, or in one plain file that every process and later run maps.

The file: a line of 64 bytes with a key, one byte per image (1 where it is damaged), then the pixels of all images end
to end, uint8 BGR. The key is made of every image's path, size, time, window, and of how it was decoded.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.labels.label_cache import cache_paths, writable
from data.labels.records import Record
from data.shared_array import SharedArray
from utils.errors import UserError
from utils.files import replacing
from utils.memory import free_memory, processes_here

Write = Callable[[int, "np.ndarray | None"], None]
ReadEach = Callable[[Write], None]  # decodes all images and gives each to a `Write`

HEADER = 64
VERSION = 2  # raised when the same files give other pixels
GIB = 2**30


def in_memory(read_each: ReadEach, starts: np.ndarray, side: int) -> SharedArray:
    """The pixels of all images, image i from starts[i] to starts[i + 1] (n + 1,); `UserError` where they do not fit."""
    need, free, processes = int(starts[-1]), free_memory(), processes_here()
    if need * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise UserError(f"cache ram needs {need / GIB:.1f} GiB{each} for {len(starts) - 1} images at {side} px but "
                        f"{free / GIB:.1f} GiB are free: use --cache disk, or none, or lower the image size",
                        "no-memory")
    block = SharedArray(need)

    def write(index: int, image: np.ndarray | None) -> None:
        if image is not None:
            block.array[starts[index]:starts[index + 1]] = image.reshape(-1)

    read_each(write)
    return block


def on_disk(records: Sequence[Record], setting: str, read_each: ReadEach,
            starts: np.ndarray) -> tuple[SharedArray, int, np.ndarray]:
    """(file, first byte of its pixels, damaged (n,) bool) of the cache, which is written where there is none that fits.

    Beside the images, or in the user's cache folder where those are read-only. Of several processes one writes and the
    others wait for it. Raises `UserError` where no place has room.
    """
    key, name = _digest(records, setting)
    header = f"assn images {VERSION} {key}".ljust(HEADER - 1).encode() + b"\n"
    length = HEADER + len(records) + int(starts[-1])
    folder = os.path.commonpath([os.path.dirname(r.path) for r in records])  # noqa: PTH120
    files = cache_paths(Path(folder), f"images-{name}.u8")
    found = next((file for file in files if _fits(file, header, length)), None)
    if found is None:
        found = _choose_path(files, length)
        try:
            with _file_lock(found):
                if not _fits(found, header, length):  # nobody else wrote it while we waited
                    _write(found, header, read_each, starts)
        except OSError as error:
            raise UserError(f"--cache disk: {found} cannot be written ({error.strerror}); make room there or leave the "
                            "cache off", "unwritable-file") from None
    content, pixels = SharedArray.map_file(found), HEADER + len(records)
    return content, pixels, content.array[HEADER:pixels].astype(bool)


def _digest(records: Sequence[Record], setting: str) -> tuple[str, str]:
    """(key, name): the key changes with any file, the name only with what is cached, so a new file replaces the old."""
    key = hashlib.blake2b(f"{VERSION} {setting}\n".encode(), digest_size=16)
    name = hashlib.blake2b(setting.encode(), digest_size=6)
    for record in records:
        what = f"{record.path}\0{record.window}\n".encode("utf-8", "surrogateescape")
        try:
            status = os.stat(record.path)  # noqa: PTH116  Path costs 3x here, and there may be 100k
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        name.update(what)
        key.update(what + f"{record.height} {record.width} {state}\n".encode())
    return key.hexdigest(), name.hexdigest()


def _fits(file: Path, header: bytes, length: int) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(HEADER) == header and file.stat().st_size == length
    except OSError:
        return False


def _choose_path(files: list[Path], need: int) -> Path:
    """The first place that can be written and has room; a file that will be replaced frees its room only afterwards."""
    short = []
    for file in files:
        if not writable(file.parent):
            continue
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(file.parent).free
        except OSError:
            continue
        if free > need:
            return file
        short.append(f"{free / GIB:.1f} GiB are free in {file.parent}")
    raise UserError(f"--cache disk needs {need / GIB:.1f} GiB but {' and '.join(short) or 'no folder can be written'}: "
                    "make room, lower the image size or leave the cache off", "no-memory")


def _write(file: Path, header: bytes, read_each: ReadEach, starts: np.ndarray) -> None:
    damaged = np.zeros(len(starts) - 1, np.uint8)
    with replacing(file) as temporary:
        handle = os.open(temporary, os.O_WRONLY)
        try:
            def write(index: int, image: np.ndarray | None) -> None:
                damaged[index] = image is None
                if image is not None:  # written, not mapped: on a full disk a map would kill the process
                    _write_all(handle, image.reshape(-1).data, HEADER + len(damaged) + int(starts[index]))

            read_each(write)
            os.truncate(handle, HEADER + len(damaged) + int(starts[-1]))
            _write_all(handle, memoryview(header + damaged.tobytes()), 0)
        finally:
            os.close(handle)


def _write_all(handle: int, content: memoryview, offset: int) -> None:
    while content:
        done = os.pwrite(handle, content, offset)
        content, offset = content[done:], offset + done


@contextlib.contextmanager
def _file_lock(file: Path) -> Iterator[None]:
    """Keep other processes out; one that dies lets the next in."""
    try:
        import fcntl
    except ImportError:  # not on Windows: two processes would both write, and the last file stays
        yield
        return
    lock = file.with_suffix(".lock")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
