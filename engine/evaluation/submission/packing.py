"""Archives of results files: written with the same bytes for the same content, read without trust.

Nothing is ever unpacked to disk: members are read as streams, and sizes are limited by what was read, not by what an
archive says.
"""

import io
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from engine.evaluation.submission.report import Refused
from utils.errors import UserError, shown
from utils.files import replacing

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can state
END, ZIP64 = b"PK\x05\x06", b"PK\x06\x07"  # the last record of a zip file; what may stand before it
MAX_DIRECTORY = 1 << 24  # bytes of a zip file's list of members, which Python reads as a whole
BLOCK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def write_zip(path: Path, files: Iterable[Path]) -> None:
    """Write `files` to a zip file, under their names alone. The same content gives the same bytes."""
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                member = zipfile.ZipInfo(file.name, EPOCH)
                member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
                member.external_attr = 0o644 << 16
                with file.open("rb") as source, archive.open(member, "w") as target:
                    while block := source.read(BLOCK):
                        target.write(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", "unwritable-file") from None


class Bounded(io.RawIOBase):
    """A stream that raises `Refused` when more than `most` bytes come out of it, and says what was read as `size`."""

    def __init__(self, source: BinaryIO, most: int, name: str) -> None:
        self.source, self.most, self.name, self.size = source, most, name, 0

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, at most a block."""
        try:
            data = self.source.read(BLOCK if count < 0 else min(count, BLOCK))
        except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise Refused("damaged", f"{self.name} cannot be read to its end ({error}); write it again") from None
        except Exception as error:  # zlib.error has no common base
            raise Refused("damaged", f"{self.name} is damaged ({error}); write it again") from None
        self.size += len(data)
        if self.size > self.most:
            raise Refused("too-large", f"{self.name} holds more than {self.most:,} bytes, the most that detections of "
                                       f"these images can take; masks and other keys do not belong in it")
        return data


def open_zip(path: Path, most: int) -> zipfile.ZipFile:
    """A zip file with plain members.

    Raises `Refused` for paths in names, repeated names, links, encryption, and sizes above `most` bytes in all.
    """
    try:
        _check_directory(path)
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise Refused("damaged", f"no whole zip file ({getattr(error, 'strerror', None) or error}); write it "
                                 f"again") from None
    try:
        _check_members(archive, most)
    except Refused:
        archive.close()
        raise
    return archive


def member_names(path: Path) -> list[str]:
    """The names in a zip file, whatever they are; none where it is damaged."""
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, Refused, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return []


def _check_members(archive: zipfile.ZipFile, most: int) -> None:
    members = archive.infolist()
    for member in members:
        name = member.orig_filename
        if not name or name in (".", "..") or any(c in name for c in "/\\:\0") or not name.isprintable():
            raise Refused("bad-member", f"the zip file has a member {shown(name, 80)}; it should hold files only, in "
                                        f"no folder")
        if member.external_attr >> 16 & 0o170000 not in (0, 0o100000):
            raise Refused("bad-member", f"{shown(name, 80)} in the zip file is a link or a device, not a file")
        if member.flag_bits & 1 or member.compress_type not in METHODS:
            raise Refused("bad-member", f"{shown(name, 80)} is encrypted, or packed by a method other than deflate; "
                                        f"zip it again")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise Refused("bad-member", "the zip file has two members of one name; zip it again")
    if sum(member.file_size for member in members) > most:
        raise Refused("too-large", f"the zip file says that it unpacks to {sum(m.file_size for m in members):,} bytes; "
                                   f"detections of these images take at most {most:,}")


def _check_directory(path: Path) -> None:
    """Refuse a list of members that is too long to be read, before Python reads it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 65_557))  # 22 bytes and the longest comment
        tail = file.read()
    at = tail.rfind(END)
    if at < 0:
        raise zipfile.BadZipFile("the end of the archive is missing")
    directory = struct.unpack_from("<L", tail, at + 12)[0]
    if directory > MAX_DIRECTORY or tail[max(0, at - 20):at].startswith(ZIP64):
        raise Refused("bad-member", "the zip file has a longer list of members than any submission")
