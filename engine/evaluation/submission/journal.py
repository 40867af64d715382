"""Detections on disk as they come, batch by batch, so that an interrupted evaluation goes on where it was.

A journal is a folder: `settings.json` says what the detections depend on, and each process of an evaluation appends to
a file of its own. A batch is one record with a checksum, so that one that was cut off by the end of its process is
recognised, and evaluated again.
"""

import json
import os
import struct
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from utils.errors import UserError, shown
from utils.files import write_bytes
from utils.structures import Detections

HEAD = struct.Struct("<4sIIB")  # magic, images, detections, bytes of a float; a checksum ends the record
CHECKSUM = struct.Struct("<I")
MAGIC = b"DET1"
SETTINGS = "settings.json"


class Journal:
    """The file of one process of an evaluation in a journal's folder, open for appending.

    Raises `UserError` where another process has it open, or it cannot be written.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"process{rank}.bin"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}; choose another --project",
                            "unwritable-file") from None
        _lock(self._file, self.path)
        self._file.truncate(sum(len(data) for data, _ in _records(self._file)))

    def append(self, image_ids: Sequence[int], detections: Sequence[Detections]) -> None:
        """Store a batch: boxes in pixels of the original images. It is on disk when this returns."""
        boxes, scores, labels = (torch.cat([getattr(d, name) for d in detections]).cpu()
                                 for name in ("boxes", "scores", "labels"))
        width = 8 if torch.float64 in (boxes.dtype, scores.dtype) else 4
        numbers = [column.double().numpy().astype(f"<f{width}") for column in (boxes, scores)]
        columns = [np.array(image_ids, "<i8"), np.array([len(d) for d in detections], "<i4"),
                   labels.numpy().astype("<i4"), *numbers]
        data = HEAD.pack(MAGIC, len(image_ids), len(boxes), width) + b"".join(column.tobytes() for column in columns)
        self._file.write(data + CHECKSUM.pack(zlib.crc32(data)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, which another process may then open."""
        self._file.close()


def read_journals(folder: Path) -> Iterator[tuple[list[int], list[Detections]]]:
    """The batches that all processes of earlier evaluations have stored, each whole."""
    for path in sorted(folder.glob("process*.bin")):
        with path.open("rb") as file:
            for data, (images, count, width) in _records(file):
                ids = np.frombuffer(data, "<i8", images, HEAD.size)
                sizes = np.frombuffer(data, "<i4", images, HEAD.size + 8 * images)
                at = HEAD.size + 12 * images
                labels = np.frombuffer(data, "<i4", count, at)
                numbers = np.frombuffer(data, f"<f{width}", 5 * count, at + 4 * count)
                columns = (torch.from_numpy(numbers[:4 * count].reshape(-1, 4).copy()),
                           torch.from_numpy(numbers[4 * count:].copy()), torch.from_numpy(labels.astype(np.int64)))
                parts = zip(*(column.split(sizes.tolist()) for column in columns), strict=True)
                yield ids.tolist(), [Detections(*part) for part in parts]


def _records(file: BinaryIO) -> Iterator[tuple[bytes, tuple[int, int, int]]]:
    """Bytes and head (images, detections, bytes of a float) of each record, up to the first damaged one."""
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    while len(head := file.read(HEAD.size)) == HEAD.size:
        magic, images, count, width = HEAD.unpack(head)
        size = 12 * images + (4 + 5 * width) * count + CHECKSUM.size
        left -= HEAD.size + size
        if magic != MAGIC or width not in (4, 8) or left < 0:
            return
        data = head + file.read(size)
        if zlib.crc32(data[:-CHECKSUM.size]) != CHECKSUM.unpack(data[-CHECKSUM.size:])[0]:
            return
        yield data, (images, count, width)


def compare_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what the detections of a journal depend on; for one that exists, compare it.

    Raises `UserError` that names each setting that has changed.
    """
    path = folder / SETTINGS
    new = json.loads(json.dumps(settings))
    if not path.is_file():
        write_bytes(path, json.dumps(new, indent=1).encode())
        return
    try:
        old = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder {folder.parent} to begin anew",
                        "unreadable-file") from None
    if not isinstance(old, dict):
        old = {}
    changed = [f"{key} {_said(old, key)}, now {_said(new, key)}" for key in {**old, **new} if _differ(old, new, key)]
    if changed:
        raise UserError(f"{folder.parent} has detections of other settings: {'; '.join(changed)}; give the same "
                        f"settings, or another name with --submit", "changed-settings")


def _differ(old: Mapping[str, Any], new: Mapping[str, Any], key: Hashable) -> bool:
    return (key in old) != (key in new) or old.get(key) != new.get(key)


def _said(settings: Mapping[str, Any], key: str) -> str:
    return shown(settings[key], 80) if key in settings else "absent"


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes from appending to the file. A lock ends with its process. Windows has none here."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"{path}: another process writes this submission; wait for it, or choose another name with "
                        f"--submit", "in-use") from None
    except OSError:  # a file system without locks
        return
