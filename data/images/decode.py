"""From the bytes of an image file to pixels, the one way for training, validation, detection, caches and the doctor.

Every image comes as (H, W, 3) uint8 BGR, turned as its EXIF orientation says, whatever its kind: grey is repeated,
transparency is left out, palettes and CMYK become colours. Values of more than 8 bits are shifted to 8 from the
smallest of 8, 10, 12, 14 and 16 bits that holds the brightest value of the file, so that a 12-bit sensor in a 16-bit
file does not come out black. Floats from 0 to 1 are shares of white, larger ones follow the same bits; values below 0,
above 65535, or floats whose greatest lies between 1 and 16 are stretched to their range.
"""

import io
import threading
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.images.header_parsers import Header, check_chunks, foreign_kind, jpeg_frame, parse, plain_tiff
from utils.cli import HARD_LIMIT, MAX_PIXELS
from utils.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}
END_OF_JPEG = b"\xff\xd9"
PNG_PIXELS = 8 * 1032  # per byte: one bit each, as small as deflate can make them
BLOCK = 8  # the side of the smallest block of a JPEG
LAST_BYTES = 8  # about as many as a plain block takes
PILLOW = ("AVIF", "DIB", "GIF", "JPEG2000", "PPM")  # that OpenCV reads, if at all, otherwise from version to version
PILLOW_TOO = {"bmp": "BMP", "tiff": "TIFF", "webp": "WEBP"}  # of which OpenCV lacks some forms
DEPTHS = (8, 10, 12, 14, 16)
LEAST = 1e-30  # span of values: all alike come out black
ONE = 1.001  # white where floats are shares of it, with room for rounding
LARGEST_FILE = (1 << 31) - 1  # bytes: OpenCV counts them with 32 bits
KEPT = 1 << 26  # bytes of a thread's buffer that stay allocated


class TooLarge(ValueError):
    """An image of more pixels than are allowed."""


def open_plain(path: str, any_size: bool = False) -> tuple[io.FileIO, int]:
    """As `open_regular`; `ValueError` for a file that is too large for an image. any_size: videos may be larger."""
    handle, size = open_regular(path)
    file = io.FileIO(handle)
    if any_size or size <= LARGEST_FILE:
        return file, size
    file.close()
    raise ValueError(f"a file of {size / 2**30:.1f} GiB is no image")


def read_bytes(path: str) -> np.ndarray:
    """The bytes of a file, until this thread reads another one; errors as of `open_plain`."""
    file, size = open_plain(path)
    with file:
        memory = _buffer.take(size)
        return memory[:file.readinto(memory)]


class _Buffer(threading.local):
    """Memory of each thread to read files into: fresh memory for every file costs more than reading it."""

    content = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        if size > KEPT:
            return np.empty(size, np.uint8)
        if size > len(self.content):
            self.content = np.empty(size + size // 2, np.uint8)
        return self.content[:size]


_buffer = _Buffer()


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """`TooLarge` where an image of this size is over the limit."""
    if height * width > max_pixels:
        cure = ("--max-pixels raises the limit" if height * width <= HARD_LIMIT
                else f"cut it into parts, no more than {HARD_LIMIT} pixels can be decoded")
        raise TooLarge(f"{width}x{height} is more than {max_pixels} pixels; {cure}")


def check_content(size: int, header: Header) -> None:
    """`ValueError` where a JPEG or PNG of `size` bytes is too short for its pixels, before memory is taken for them."""
    least = 0
    if header.kind == "jpeg":
        least = -(-header.height // BLOCK) * -(-header.width // BLOCK) // 64  # an eighth of a bit for each block
    elif header.kind == "png":
        least = header.height * header.width // PNG_PIXELS
    if size < least:
        raise ValueError(f"cut short or damaged: {size} bytes cannot hold {header.width}x{header.height} pixels")


def decode(data: np.ndarray, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of a whole file. `ValueError` says why it cannot be used, whatever a decoder raised."""
    header = read_kind(data)
    if header is not None:
        check_pixels(header.height, header.width, max_pixels)
    return decode_as(data, header, max_pixels=max_pixels)


def read_kind(data: np.ndarray) -> Header | None:
    """The header of a whole file, None where only a decoder can tell; `ValueError` where it can be no image."""
    if not len(data):
        raise ValueError("an empty file")
    return parse(memoryview(data))


def decode_as(data: np.ndarray, header: Header | None, reduce: int = 1, turn: bool = True,
              max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `decode`, for a file whose header was parsed and checked.

    reduce: 1, 2, 4 or 8 for a JPEG, which libjpeg shrinks by whole blocks: sides become ceil(side / reduce).
    turn: False gives the image as it is stored, without what EXIF says.
    """
    try:
        if header is None:
            image, orientation = _by_pillow(data, max_pixels)
        else:
            check_content(len(data), header)
            if header.kind == "png":
                check_chunks(memoryview(data), len(data))
            image, orientation = _by_opencv(data, header, reduce), header.orientation
            if image is None and header.kind in PILLOW_TOO:
                image = _by_pillow(data, max_pixels, (PILLOW_TOO[header.kind],))[0]
    except ValueError:
        raise
    except Exception as error:  # decoders raise anything on damaged files: cv2.error, MemoryError, struct.error, ...
        raise ValueError(f"cannot be decoded ({type(error).__name__})") from None
    if image is None:
        raise ValueError("cut short, damaged or no image: it cannot be decoded")
    if header is not None and image.shape[:2] != (wanted := tuple(-(-side // reduce) for side in header.stored)):
        raise ValueError(f"damaged: its header says {wanted[1]}x{wanted[0]}, its pixels are {image.shape[1]}x"
                         f"{image.shape[0]}")
    return turned(image, orientation) if turn else image


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """A stored image as it is displayed under an EXIF orientation of 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Values of any type as uint8, by the rule at the head of this module."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f":
        image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 65535 and image.dtype.kind != "f":
        return (image.astype(np.uint16) >> (depth_of(high) - 8)).astype(np.uint8)
    if low < 0 or high > 65535:
        return np.rint((image.astype(np.float64) - low) * (255 / max(high - low, LEAST))).astype(np.uint8)
    white = 1 if high <= ONE else max(high, 1) if high < 16 else 2.0 ** depth_of(high) - 1
    return np.clip(np.rint(image * (255 / white)), 0, 255).astype(np.uint8)


def depth_of(highest: float) -> int:
    """The bits that a file with this brightest value is taken to have: the smallest of DEPTHS that holds it."""
    return next(bits for bits in DEPTHS if highest < 2**bits or bits == DEPTHS[-1])


def deep_values(data: np.ndarray, header: Header) -> np.ndarray | None:
    """The values of a file of more than 8 bits as they are stored, (h, w) or (h, w, channels)."""
    if header.kind == "tiff":
        data = np.frombuffer(plain_tiff(memoryview(data)), np.uint8)
    # OpenCV refuses floats where it is asked for colours.
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def _by_opencv(data: np.ndarray, header: Header, reduce: int) -> np.ndarray | None:
    if header.deep:
        image = deep_values(data, header)
        return None if image is None else three_channels(to_bytes(image))
    if header.kind == "tiff":
        data = np.frombuffer(plain_tiff(memoryview(data)), np.uint8)
    if header.kind == "jpeg" and data[-2:].tobytes() != END_OF_JPEG:
        data = _whole_jpeg(data)
    return cv2.imdecode(data, REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)


def _whole_jpeg(data: np.ndarray) -> np.ndarray:
    """A JPEG with its end marker; `ValueError` where more than that is missing, which OpenCV 4 fills with grey."""
    content = data.tobytes()
    if content.rfind(END_OF_JPEG) > jpeg_frame(content)[1]:  # bytes of a camera follow; thumbnails stand before
        return data
    mended = mend_jpeg(content)
    if mended is None:
        raise ValueError("cut short: a JPEG without its end")
    return np.frombuffer(mended, np.uint8)


def three_channels(image: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, c) -> (h, w, 3); without a fourth channel, and the first of two as grey."""
    if image.ndim == 2 or image.shape[2] < 3:
        return cv2.cvtColor(image if image.ndim == 2 else np.ascontiguousarray(image[..., 0]), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[..., :3])


def _by_pillow(data: np.ndarray, max_pixels: int, kinds: tuple[str, ...] = PILLOW) -> tuple[np.ndarray | None, int]:
    """(pixels, orientation) by Pillow, which is asked for these kinds alone; (None, 1) for a file of another."""
    from PIL import Image, UnidentifiedImageError  # most data sets never need it

    if foreign := foreign_kind(memoryview(data)):
        raise ValueError(f"{foreign}, which cannot be read here; convert it to JPEG or PNG")
    try:
        with Image.open(io.BytesIO(data), formats=kinds) as picture:
            check_pixels(picture.height, picture.width, max_pixels)
            return picture_pixels(picture)
    except UnidentifiedImageError:
        return None, 1


def picture_pixels(picture: "Image.Image") -> tuple[np.ndarray, int]:
    """(pixels as they are stored, (H, W, 3) uint8 BGR, EXIF orientation) of a picture that Pillow has opened."""
    orientation = picture.getexif().get(0x0112, 1)
    if picture.mode.startswith(("I", "F")):
        image = three_channels(to_bytes(np.asarray(picture)))
    else:
        image = cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)
    return image, orientation if orientation in range(1, 9) else 1


def is_animated(path: str) -> bool:
    """Whether a file is a GIF that holds more than one image; True where that is not known."""
    from PIL import Image

    try:
        with open_plain(path)[0] as file:
            if file.read(3) != b"GIF":
                return False
            file.seek(0)
            with Image.open(file, formats=("GIF",)) as picture:
                return bool(picture.is_animated)
    except Exception:  # whatever a damaged file makes Pillow raise
        return True


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
