"""The label cache: plain arrays in an .npz, never pickled, valid while the dataset says the same.

It is keyed on content, not on times: a dataset that was touched, copied or moved keeps its cache, and an edited label
is noticed whatever its time and size.
"""

import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.file_threads import in_threads
from data.formats.paths import IMAGE_SUFFIXES
from data.labels.cache_content import check, read_array, read_table
from data.labels.records import RecordTable
from data.labels.scan_report import ScanReport
from utils.files import read_blocks, replacing

VERSION = 5  # raised when the same files give other arrays
BLOCK = 1 << 20  # bytes of a file hashed at a time
HERE = "\0/"  # stands in a cached text for the folder that the dataset lies in; no path has a NUL


@dataclass(frozen=True)
class Key:
    """What a cache must have been made from: `text`, and the folder above all its files, which may have moved.

    images: the same of the names and bytes of images alone.
    """

    text: str
    base: str
    images: str = ""


def digest(config: Any, files: Sequence[str]) -> Key:
    """The key of a dataset: its settings, where in its folder each file lies, what each label file holds.

    Of images only the size in bytes is looked at: to read and hash the 20 GB of COCO's would take longer than the first
    epoch needs to decode them, and an image replaced by one of as many bytes but another height or width is found out
    when it is decoded.
    """
    base = _common_folder(files)
    said = repr((VERSION, config))
    key = hashlib.blake2b(said.replace(base, HERE).encode("utf-8", "surrogateescape"), digest_size=16)
    images = hashlib.blake2b(digest_size=16)
    for is_image, state in in_threads(lambda file: _state(file, len(base)), files):
        (images if is_image else key).update(state)
    key.update(images.digest())
    return Key(key.hexdigest(), base, images.hexdigest())


def file_hash(path: str) -> bytes:
    """blake2b of a file's bytes, read in blocks. `OSError` where it cannot be read."""
    key = hashlib.blake2b(digest_size=16)
    for block in read_blocks(path, block=BLOCK):
        key.update(block)
    return key.digest()


def cache_paths(root: Path, name: str) -> list[Path]:
    """Where a file `name` may lie, the best place first: with the dataset, in the user's cache folder, in a temporary
    one."""
    tag = hashlib.blake2b(str(root).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assn"
    temporary = Path(tempfile.gettempdir()) / f"assn-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    return [root / name, user / f"{tag}-{name}", temporary / f"{tag}-{name}"]


def load(files: list[Path], key: Key,
         damaged: list[Path] | None = None) -> tuple[RecordTable, dict[str, Any], ScanReport] | None:
    """The first cache with this key: records, meta and report; None where there is none, or only damaged ones.

    What a file holds is checked as labels are: types, shapes, ranges. Files that do not pass are added to `damaged`.
    """
    for file in files:
        if not file.is_file():
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                content = json.loads(read_array(archive, "meta", "u1").tobytes())
                if content["key"] != key.text:
                    continue
                table = read_table(archive)
                meta, report = content["meta"], ScanReport(**content["report"])
            check(table, meta, report)
            report = ScanReport(**_replaced(asdict(report), HERE, key.base))
            return _with_paths(table, HERE, key.base), meta, report
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, MemoryError,
                NotImplementedError, RuntimeError, zipfile.BadZipFile):  # all that reading a spoiled archive raises
            if damaged is not None:
                damaged.append(file)
    return None


def save(files: list[Path], key: Key, table: RecordTable, meta: dict[str, Any], report: ScanReport) -> Path | None:
    """Write a cache, whole or not at all, to the first place that can be written; returns it, None where none can."""
    table = _with_paths(table, key.base, HERE)
    content = {"key": key.text, "meta": meta, "report": _replaced(asdict(report), key.base, HERE)}
    arrays = {f.name: column for f in fields(RecordTable) if (column := getattr(table, f.name)) is not None}
    arrays["meta"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    for file in files:
        if not writable(file.parent):
            continue
        try:
            with replacing(file) as temporary:
                np.savez(temporary, **arrays)
            return file
        except OSError:
            continue
    return None


def _common_folder(files: Sequence[str]) -> str:
    """The deepest folder above all files, with its slash: that above the first and the last in order of spelling."""
    if not files:
        return os.sep
    folder = os.path.commonpath([os.path.dirname(min(files)), os.path.dirname(max(files))])  # noqa: PTH120
    return folder.rstrip(os.sep) + os.sep


def _state(file: str, base: int) -> tuple[bool, bytes]:
    """Whether a file is an image, and the file as the key sees it; `base`: letters of its path that do not count."""
    name = file[base:]
    is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122  Path costs 10x here
    try:
        if is_image:
            state = str(os.stat(file).st_size)  # noqa: PTH116
        else:
            state = file_hash(file).hex()
    except OSError:
        state = "absent"
    return is_image, f"{name}\0{state}\n".encode("utf-8", "surrogateescape")


def _with_paths(table: RecordTable, old: str, new: str) -> RecordTable:
    """The table with paths that begin with `new` where they began with `old`."""
    before, after = (word.encode("utf-8", "surrogateescape") for word in (old, new))
    letters, ends = table.paths.tobytes(), table.path_ends.tolist()
    paths = [letters[a:b] for a, b in zip((0, *ends[:-1]), ends, strict=True)] if ends else []
    paths = [after + path[len(before):] if path.startswith(before) else path for path in paths]
    return replace(table, paths=np.frombuffer(b"".join(paths), np.uint8),
                   path_ends=np.cumsum([len(path) for path in paths], dtype=np.int64))


def _replaced(content: Any, old: str, new: str) -> Any:
    """Plain data with `new` for `old` in all its texts: examples of a report name files."""
    if isinstance(content, str):
        return content.replace(old, new)
    if isinstance(content, list):
        return [_replaced(item, old, new) for item in content]
    return {k: _replaced(v, old, new) for k, v in content.items()} if isinstance(content, dict) else content


def writable(folder: Path) -> bool:
    """False where the owner's write permission is off: data kept read-only stays so, even from root."""
    return not folder.exists() or bool(folder.stat().st_mode & stat.S_IWUSR)
