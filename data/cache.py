"""The label cache: plain arrays in an .npz, never pickled, valid while no file of the dataset has changed."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from data.records import RecordTable
from data.report import ScanReport

VERSION = 1  # raised when the same files give other arrays


def digest(config: Any, files: Iterable[str]) -> str:
    """A key that changes with the settings and with the place, size or time of any of the files."""
    key = hashlib.blake2b(repr((VERSION, config)).encode(), digest_size=16)
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116  Path costs 3x here, and there may be 100k
            state = f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            state = f"{file}\0absent\n"
        key.update(state.encode("utf-8", "surrogateescape"))
    return key.hexdigest()


def places(root: Path, name: str) -> list[Path]:
    """Where a cache may lie, the best place first: with the dataset, in the user's cache folder, in a temporary one."""
    tag = hashlib.blake2b(str(root).encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assn"
    return [root / f"{name}.cache.npz", user / f"{tag}-{name}.cache.npz",
            Path(tempfile.gettempdir()) / f"assn-{os.getuid()}" / f"{tag}-{name}.cache.npz"]


def load(files: list[Path], key: str) -> tuple[RecordTable, dict[str, Any], ScanReport] | None:
    """The first cache with this key: records, meta and report; None where there is none, or only damaged ones."""
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                meta = json.loads(arrays["meta"].tobytes())
                if meta["key"] != key:
                    continue
                table = RecordTable(**{f.name: arrays[f.name] for f in fields(RecordTable)})
                return table, meta["meta"], ScanReport(**meta["report"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
            continue
    return None


def save(files: list[Path], key: str, table: RecordTable, meta: dict[str, Any], report: ScanReport) -> Path | None:
    """Write a cache, whole or not at all, to the first place that can be written; returns it, None where none can."""
    content = {"key": key, "meta": meta, "report": asdict(report)}
    arrays = {f.name: getattr(table, f.name) for f in fields(RecordTable)}
    arrays["meta"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    for file in files:
        if not _writable(file.parent):
            continue
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                np.savez(stream, **arrays)
            temporary.replace(file)
            return file
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return None


def _writable(folder: Path) -> bool:
    """False where the owner's write permission is off: data kept read-only stays so, even from root."""
    return not folder.exists() or bool(folder.stat().st_mode & stat.S_IWUSR)
