"""Headers of image files, read before any pixel is decoded: kind, size, EXIF orientation, bits per value.

By content, never by suffix. Sizes are those of the stored image; `Header` turns them as EXIF says.
"""

import struct
import zlib
from dataclasses import dataclass

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; the three are tables and reserved
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
EXIF = b"Exif\x00\x00"
# Tags of TIFF and EXIF.
WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, EXTRA, SAMPLE_FORMAT = 256, 257, 258, 259, 274, 338, 339
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF's types of whole numbers
TAIL = 1 << 16  # bytes at the end of a PNG in which an eXIf chunk may follow the pixels
UNASSOCIATED = 2  # transparency that the colours are not multiplied with yet
MOST_TAGS = 4096
HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
AVIF = {b"avif", b"avis"}


@dataclass(frozen=True)
class Header:
    """Height and width in pixels as displayed, and the EXIF orientation (1 to 8) that displaying applied.

    endless: a JPEG that lacks its end marker, and no pixels but perhaps some of its last block. bits: of one value of a
    pixel, more than 8 or of another type than unsigned integers where `deep`. kind: jpeg, png, webp, tiff, bmp.
    """

    height: int
    width: int
    orientation: int = 1
    endless: bool = False
    deep: bool = False
    kind: str = ""

    @property
    def turned(self) -> bool:
        """Whether EXIF turns the stored image by a quarter, so that its sides change places."""
        return self.orientation >= 5

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) before EXIF turns the image."""
        return (self.width, self.height) if self.turned else (self.height, self.width)


def header(kind: str, height: int, width: int, orientation: int = 1, deep: bool = False) -> Header:
    """The `Header` of a stored image of this height and width. `ValueError` where that is no size of an image."""
    if not height or not width:
        raise ValueError(f"no image: its header says {width}x{height} pixels")
    sides = (width, height) if orientation >= 5 else (height, width)
    return Header(*sides, orientation, deep=deep, kind=kind)


def parse(data: memoryview) -> Header | None:
    """The header of a whole file, None where it is of a kind that only a decoder can tell the size of.

    `ValueError` where the file can be no image.
    """
    start = bytes(data[:32])
    try:
        if start[:2] == JPEG_MAGIC:
            if found := jpeg_frame(data):
                return found[0]
            raise ValueError("cut short or damaged: a JPEG that does not say its size")
        if start[:8] == PNG_MAGIC:
            return png(data, data[-TAIL:])
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return _webp(data)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if start[:2] == b"BM" and len(data) >= 26:
            return _bmp(start)
    except (struct.error, IndexError):
        raise ValueError("cut short or damaged: its header is not whole") from None
    return None


def foreign_kind(data: memoryview) -> str:
    """The name of a kind of image that is not read here, '' for any other content."""
    start = bytes(data[:16])
    if start[4:8] == b"ftyp" and start[8:12] in HEIF:
        return "HEIC"
    if start[:12] == b"\0\0\0\x0cJXL \r\n\x87\n" or start[:2] == b"\xff\x0a":
        return "JPEG XL"
    return ""


def jpeg_frame(data: memoryview | bytes) -> tuple[Header, int] | None:
    """Walk the segments of a JPEG up to its frame header: what it says and its place; None where there is none."""
    position, orientation = 2, 1
    while position + 9 <= len(data):
        if data[position] != 0xFF:  # libjpeg skips bytes between segments, so they are skipped here
            skipped = bytes(data[position:]).find(b"\xff")
            if skipped < 0:
                return None
            position += skipped
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
        elif marker in ALONE:
            position += 2
        elif marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return (header("jpeg", height, width, orientation), position) if height and width else None
        else:
            length = int.from_bytes(data[position + 2:position + 4], "big")
            if marker == 0xE1 and data[position + 4:position + 10] == EXIF:
                orientation = exif_orientation(data[position + 10:position + 2 + length])
            position += 2 + length
    return None


def png(head: memoryview | bytes, tail: memoryview | bytes) -> Header:
    """The header of a PNG from its first bytes and its last, where an eXIf chunk may stand behind the pixels."""
    width, height = struct.unpack_from(">II", head, 16)
    orientation, position = 1, 8
    while position + 8 <= len(head):
        length, name = struct.unpack_from(">I4s", head, position)
        if name == b"IDAT":
            break
        if name == b"eXIf":
            return header("png", height, width, exif_orientation(head[position + 8:position + 8 + length]),
                          head[24] == 16)
        position += 12 + length
    tail = bytes(tail)
    at = tail.rfind(b"eXIf")
    if at >= 4:  # pixel data may contain the name, but not with its check sum
        length = int.from_bytes(tail[at - 4:at], "big")
        block, check = tail[at + 4:at + 4 + length], tail[at + 4 + length:at + 8 + length]
        if zlib.crc32(b"eXIf" + block).to_bytes(4, "big") == check:
            orientation = exif_orientation(block)
    return header("png", height, width, orientation, head[24] == 16)


def check_chunks(data: memoryview | bytes, size: int) -> None:
    """`ValueError` where a chunk in these first bytes of a PNG of `size` bytes is longer than the file: OpenCV would
    take memory for all of it."""
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position:position + 4], "big")
        if position + 8 + length > size:
            raise ValueError("cut short or damaged: a part of the PNG is longer than the file")
        if data[position + 4:position + 8] == b"IEND":
            return
        position += 12 + length


def exif_orientation(block: memoryview | bytes) -> int:
    """The orientation, 1 to 8, that an EXIF block says; 1 where it says none or something else."""
    block = block[6:] if block[:6] == EXIF else block
    try:
        value = tiff_tags(block).get(ORIENTATION, (1, 0))[0]
    except (ValueError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def tiff_tags(data: memoryview | bytes) -> dict[int, tuple[int, int]]:
    """tag -> (first value, position of the value) of the whole numbers in a TIFF's first directory.

    `ValueError` or `struct.error` where there is none.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        raise ValueError("no TIFF")
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    first, entry, inline = start + (8 if big else 2), 20 if big else 12, 8 if big else 4
    tags = {}
    for place in range(first, first + entry * min(count, MOST_TAGS), entry):
        if place + entry > len(data):
            break
        tag, kind, values = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, place)
        if kind not in INTEGERS:
            continue
        at = place + entry - inline
        if values * struct.calcsize(INTEGERS[kind]) > inline:
            (at,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, at)
        if at + 8 <= len(data) or at == place + entry - inline:
            tags[tag] = struct.unpack_from(order + INTEGERS[kind], data, at)[0], at
    return tags


def plain_tiff(data: memoryview) -> memoryview | bytearray:
    """A TIFF that OpenCV decodes as it is stored; the same where nothing needs to be changed for that.

    OpenCV turns TIFFs even with IMREAD_IGNORE_ORIENTATION, and multiplies colours with transparency.
    """
    changed = None
    for tag, (value, at) in tiff_tags(data).items():
        if (tag == ORIENTATION and value != 1) or (tag == EXTRA and value == UNASSOCIATED):
            changed = changed or bytearray(data)
            changed[at:at + 2] = b"\x01\x00" if data[:2] == b"II" else b"\x00\x01"
    return data if changed is None else changed


def _tiff(data: memoryview) -> Header:
    tags = tiff_tags(data)
    height, width, bits, kind, orientation = (tags.get(tag, (default, 0))[0] for tag, default in (
        (HEIGHT, 0), (WIDTH, 0), (BITS, 1), (SAMPLE_FORMAT, 1), (ORIENTATION, 1)))
    if tags.get(COMPRESSION, (1, 0))[0] == 1 and height * width * bits > 8 * len(data):
        raise ValueError(f"cut short or damaged: {len(data)} bytes cannot hold {width}x{height} pixels")
    return header("tiff", height, width, orientation if 1 <= orientation <= 8 else 1, bits > 8 or kind != 1)


def _webp(data: memoryview) -> Header:
    height = width = 0
    orientation, position = 1, 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8:position + 8 + length]
        if name == b"VP8X":
            width, height = (1 + int.from_bytes(body[at:at + 3], "little") for at in (4, 7))
        elif name == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
        elif name == b"VP8L" and not width:
            (packed,) = struct.unpack_from("<I", body, 1)
            width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
        elif name == b"EXIF":
            orientation = exif_orientation(body)
        position += 8 + length + length % 2
    return header("webp", height, width, orientation)


def _bmp(start: bytes) -> Header:
    (size,) = struct.unpack_from("<I", start, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", start, 18)
    return header("bmp", abs(height), abs(width))
