"""The size of an image, and whether its file is whole, from a few bytes of it."""

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

HEAD = 1 << 15
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
END_OF_JPEG, END_OF_PNG = b"\xff\xd9", b"IEND"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three are tables and reserved
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
EXIF = b"Exif\x00\x00"
ORIENTATION, SHORT = 0x0112, 3
BLOCK = 8  # the side of the smallest block of a JPEG
LAST_BYTES = 8  # about as many as a plain block takes


@dataclass(frozen=True)
class Header:
    """Height and width in pixels as displayed, and whether EXIF turns the stored image by a quarter for that.

    endless: a JPEG that lacks its end marker, and no pixels but perhaps some of its last block.
    """

    height: int
    width: int
    turned: bool = False
    endless: bool = False


def read_header(path: str) -> Header:
    """The size of an image file. `ValueError` says why a file cannot be used; `OSError` where it cannot be opened.

    A JPEG or PNG cut short is found by its missing end, without decoding it; other kinds are decoded.
    """
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(HEAD)
        if head[:2] == JPEG:
            return _jpeg(file, head)
        if head[:8] == PNG and len(head) >= 24:
            file.seek(-min(12, len(head)), 2)
            if END_OF_PNG not in file.read(12) and END_OF_PNG not in _whole(file):
                raise ValueError("cut short: a PNG without its end")
            width, height = struct.unpack(">II", head[16:24])
            return Header(height, width)
        if not head:
            raise ValueError("an empty file")
        return _decoded(file)


def _jpeg(file, head: bytes) -> Header:
    found = _jpeg_frame(head)
    if found is None:  # a large EXIF or colour profile stands before the size
        found = _jpeg_frame(_whole(file))
    if found is None:  # cut short or badly made: only the decoder can tell
        return _decoded(file)
    header, position = found
    file.seek(-2, 2)
    # Thumbnails in EXIF have ends of their own, but they stand before the frame.
    if file.read(2) != END_OF_JPEG and (data := _whole(file)).rfind(END_OF_JPEG) < position:
        if mend_jpeg(data) is None:
            raise ValueError("cut short: a JPEG without its end")
        return replace(header, endless=True)
    return header


def mend_jpeg(data: bytes) -> bytes | None:
    """A JPEG that OpenCV refuses, with its end marker put back; None where pixels before the last block are missing.

    They are there if a few bytes less would change the last block: one without data is flat whatever stands before.
    """
    images = [cv2.imdecode(np.frombuffer(data[:n] + END_OF_JPEG, np.uint8), cv2.IMREAD_IGNORE_ORIENTATION | 1)
              for n in (len(data), len(data) - LAST_BYTES)]
    if images[0] is None or images[1] is None or images[0].shape != images[1].shape:
        return None
    changed = (images[0][-BLOCK:, -BLOCK:] != images[1][-BLOCK:, -BLOCK:]).any()
    return data + END_OF_JPEG if changed else None


def _jpeg_frame(data: bytes) -> tuple[Header, int] | None:
    """Walk the segments up to the frame header: its content and place; None where there is none."""
    position, turned = 2, False
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
        elif marker in ALONE:
            position += 2
        elif marker in FRAMES:
            height, width = struct.unpack(">HH", data[position + 5:position + 9])
            if not height or not width:
                return None
            return (Header(width, height, True) if turned else Header(height, width)), position
        else:
            length = int.from_bytes(data[position + 2:position + 4], "big")
            if marker == 0xE1 and data[position + 4:position + 10] == EXIF:
                turned = _orientation(data[position + 10:position + 2 + length]) >= 5  # 5 to 8 turn by a quarter
            position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a TIFF block; 1 where it says none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for k in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * k)
            if tag == ORIENTATION and kind == SHORT:
                return value
    except struct.error:
        return 1
    return 1


def _decoded(file) -> Header:
    image = cv2.imdecode(np.frombuffer(_whole(file), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("cut short, damaged or no image: OpenCV cannot decode it")
    return Header(*image.shape[:2])


def _whole(file) -> bytes:
    file.seek(0)
    return file.read()
