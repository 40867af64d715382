"""The size of an image, and whether its file is whole, from a few bytes of it."""

import io
from dataclasses import replace

from data.images.decode import (
    END_OF_JPEG,
    MAX_PIXELS,
    check_content,
    check_pixels,
    decode,
    mend_jpeg,
    open_plain,
    read_bytes,
    read_kind,
)
from data.images.header_parsers import JPEG_MAGIC, PNG_MAGIC, TAIL, Header, check_chunks, jpeg_frame, png

HEAD = 1 << 15
END_OF_PNG = b"IEND"


def read_header(path: str, max_pixels: int = MAX_PIXELS) -> Header:
    """The size of an image file. `ValueError` says why a file cannot be used; `OSError` where it cannot be opened.

    A JPEG or PNG cut short is found by its missing end, without decoding it; other kinds are decoded. An image of more
    than max_pixels is refused (`TooLarge`) before memory is taken for it.
    """
    file, size = open_plain(path)
    with file:
        head = file.read(HEAD)
        if head[:2] == JPEG_MAGIC:
            return _jpeg(file, head, size, max_pixels)
        if head[:8] == PNG_MAGIC and len(head) >= 26:
            return _png(file, head, size, max_pixels)
    return _decoded(path, max_pixels)


def _jpeg(file: io.FileIO, head: bytes, size: int, max_pixels: int) -> Header:
    found = jpeg_frame(head)
    if found is None:  # a large EXIF or colour profile stands before the size
        found = jpeg_frame(_whole(file))
    if found is None:
        raise ValueError("cut short or damaged: a JPEG that does not say its size")
    header, position = found
    check_pixels(header.height, header.width, max_pixels)
    check_content(size, header)
    file.seek(size - 2)
    # Thumbnails in EXIF have ends of their own, but they stand before the frame.
    if file.read(2) != END_OF_JPEG and (data := _whole(file)).rfind(END_OF_JPEG) < position:
        if mend_jpeg(data) is None:
            raise ValueError("cut short: a JPEG without its end")
        return replace(header, endless=True)
    return header


def _png(file: io.FileIO, head: bytes, size: int, max_pixels: int) -> Header:
    file.seek(max(size - TAIL, 0))
    tail = file.read(TAIL)
    if END_OF_PNG not in tail[-12:] and END_OF_PNG not in _whole(file):
        raise ValueError("cut short: a PNG without its end")
    check_chunks(head, size)
    header = png(head, tail)
    check_pixels(header.height, header.width, max_pixels)
    check_content(size, header)
    return header


def _decoded(path: str, max_pixels: int) -> Header:
    data = read_bytes(path)
    header = read_kind(data)
    height, width = decode(data, max_pixels).shape[:2]
    return header or Header(height, width)


def _whole(file: io.FileIO) -> bytes:
    file.seek(0)
    return file.read()
