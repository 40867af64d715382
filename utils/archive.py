"""The two containers of torch checkpoints: a zip archive (since torch 1.6), and before it a stream of pickles followed
by the raw storages. Both are opened for reading tensors when they are wanted; see `utils.pickles`.
"""

import functools
import io
import mmap
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.pickles import Refusal, load_pickle

MAX_ENTRIES = 200_000  # of a zip file, one per tensor
MAGIC = 0x1950A86A20F9469CFC6C  # opens the stream of torch before 1.6
PROTOCOL = 1001
MAX_PICKLE = 1 << 26  # bytes; the largest known model's is some 2 MB, as its numbers lie outside

_UNREADABLE = (pickle.UnpicklingError, AttributeError, TypeError, ValueError, IndexError, KeyError, OverflowError,
               RecursionError, MemoryError, ImportError)

# How Python's readers of pickles say that the data end too early.
_ENDED = ("truncated", "exhausted", "not enough data", "remain", "no newline")


@contextmanager
def open_archive(path: Path | str) -> Iterator[Any]:
    """What a checkpoint holds: plain containers, `Record` and `StoredTensor`, which load within this block.

    Raises `UserError` for a missing, truncated or foreign file, and for one that calls what no checkpoint needs.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: no such checkpoint", code="missing-file") from None
        raise UserError(f"{path}: cannot be read: {error.strerror}", code="unreadable-file") from None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _read_zip(archive, path)
        elif not start or start.startswith(b"PK\x03\x04"[:len(start)]):
            raise UserError(f"{path}: truncated ({path.stat().st_size:,} bytes): the end of the archive is missing; "
                            "copy or download it again", code="corrupt-checkpoint")
        elif start.startswith(b"\x80"):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                yield _read_stream(stream, path)
        else:
            raise UserError(f"{path}: not a PyTorch checkpoint ({path.stat().st_size:,} bytes beginning with "
                            f"{start[:8]!r})", code="not-a-checkpoint")
    except Refusal as refusal:
        raise UserError(f"{path}: asks to run {refusal}, which no checkpoint needs; nothing was run, and the file is "
                        "not opened", code="unsafe-pickle") from None
    except EOFError:
        raise UserError(_truncated(path), code="corrupt-checkpoint") from None
    except (*_UNREADABLE, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        text = str(error).strip().splitlines()[:1]
        if "Bad CRC-32" in str(error):
            raise UserError(f"{path}: damaged: the bytes of {str(error).rpartition(' ')[2]} do not agree with their "
                            "checksum (a failing disk, a broken copy); copy or download it again, or go back to an "
                            "older one", code="corrupt-checkpoint") from None
        if any(word in str(error) for word in _ENDED):
            raise UserError(_truncated(path), code="corrupt-checkpoint") from None
        raise UserError(f"{path}: corrupt checkpoint: {''.join(text)[:200] or type(error).__name__}",
                        code="corrupt-checkpoint") from None


def _truncated(path: Path) -> str:
    return f"{path}: truncated ({path.stat().st_size:,} bytes): it ends in the middle; copy or download it again"


def _read_zip(archive: zipfile.ZipFile, path: Path) -> Any:
    if len(archive.filelist) > MAX_ENTRIES:
        raise UserError(f"{path}: a zip file of {len(archive.filelist):,} entries, which is no model", code="too-large")
    entries = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise UserError(f"{path}: a zip file that is no PyTorch checkpoint (it holds no data.pkl)",
                        code="not-a-checkpoint")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise UserError(f"{path}: a TorchScript program, not a checkpoint; give the .pt that it was made from",
                        code="not-a-checkpoint")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in entries.values()):
        raise UserError(f"{path}: its entries are compressed or encrypted, as torch.save never writes them; save it "
                        "again with torch", code="unsupported-checkpoint")
    order = entries.get(f"{root}byteorder")
    if order is not None and order.file_size < 99 and archive.read(order).strip() == b"big":
        raise UserError(f"{path}: written on a big-endian machine; save it again on another",
                        code="unsupported-checkpoint")
    if entries[f"{root}data.pkl"].file_size > MAX_PICKLE:
        raise UserError(f"{path}: its data.pkl is larger than {MAX_PICKLE >> 20} MiB, which is no model",
                        code="too-large")

    def locate(key: str, numel: int, dtype: torch.dtype) -> Callable[[], bytes]:
        info = entries.get(f"{root}data/{key}")
        held = -1 if info is None else info.file_size
        if held != numel * dtype.itemsize:
            raise ValueError(f"storage {key} should hold {numel} numbers of {dtype.itemsize} bytes and "
                             + ("is missing" if info is None else f"holds {held} bytes"))
        return functools.partial(read, key)

    @functools.lru_cache(maxsize=1)  # views of one storage follow each other
    def read(key: str) -> bytes:
        return archive.read(entries[f"{root}data/{key}"])  # compares the checksum

    program = archive.read(f"{root}data.pkl")
    return load_pickle(io.BytesIO(program), len(program), locate, path.stat().st_size)


def _read_stream(stream: mmap.mmap, path: Path) -> Any:
    """The old container: magic number, protocol, system, the object, the keys of the storages, and these in order."""
    places: dict[str, tuple[int, int]] = {}  # key -> where its bytes begin, how many numbers
    wanted: dict[str, tuple[int, torch.dtype]] = {}

    def locate(key: str, numel: int, dtype: torch.dtype) -> Callable[[], bytes]:
        if wanted.setdefault(key, (numel, dtype)) != (numel, dtype):
            raise ValueError(f"storage {key} is described in two ways")

        def read() -> bytes:
            start, _ = places[key]
            return stream[start:start + numel * dtype.itemsize]

        return read

    def load() -> Any:
        return load_pickle(stream, len(stream), locate, len(stream))

    magic = load()
    if type(magic) is not int or magic != MAGIC:
        raise UserError(f"{path}: a pickle that torch.save did not write; save the model's state dict with torch.save",
                        code="not-a-checkpoint")
    if load() != PROTOCOL:
        raise ValueError("an unknown version of torch's old format")
    system = load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UserError(f"{path}: written on a big-endian machine; save it again on another",
                        code="unsupported-checkpoint")
    content = load()
    for key in load():
        count = stream.read(8)
        if len(count) < 8:
            raise EOFError
        numel, dtype = wanted.get(str(key), (None, torch.uint8))
        if numel is None or int.from_bytes(count, "little", signed=True) != numel:
            raise ValueError(f"storage {key} holds {int.from_bytes(count, 'little', signed=True)} numbers, not {numel}")
        places[str(key)] = (stream.tell(), numel)
        if stream.tell() + numel * dtype.itemsize > len(stream):
            raise EOFError
        stream.seek(numel * dtype.itemsize, io.SEEK_CUR)
    missing = sorted(wanted.keys() - places.keys())
    if missing:
        raise ValueError(f"storage {missing[0]} is missing")
    return content
