"""From a file to pixels: decoding in the labels' frame, at reduced size where that is enough, and the RAM cache.

Legend: H, W pixels of the original frame, the one labels are in; images are (h, w, 3) uint8 BGR, OpenCV's order.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from data.letterbox import fit_side
from data.records import Record
from utils.errors import UserError

Scale = tuple[float, float]  # (x, y): pixels of the decoded image per pixel of the original frame

REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
           8: cv2.IMREAD_REDUCED_COLOR_8}
JPEG_MAGIC = b"\xff\xd8"


def reduction(scale: float) -> int:
    """The largest of 1, 2, 4, ... 64 by which an image may be shrunk before a resize by `scale` without losing detail.

    What is left of the resize is then between a half and one, where linear interpolation misses no pixel.
    """
    return next((r for r in (64, 32, 16, 8, 4, 2) if scale * r <= 1.0), 1)


def read_image(path: str) -> np.ndarray | None:
    """Decode a file as (H, W, 3) BGR uint8, turned as its EXIF says; None where it cannot be read. Any Unicode path."""
    data = _read_bytes(path)
    return None if data is None else _decode(data, cv2.IMREAD_COLOR)


def read_for(record: Record, reduce: int = 1) -> tuple[np.ndarray, Scale] | None:
    """Decode a record's image, 1/reduce of its size (reduce: 1, 2, 4, ... 64), in the frame that its labels are in.

    None where the file cannot be decoded or has another size than the record says.
    """
    data = _read_bytes(record.path)
    if data is None:
        return None
    # Only libjpeg shrinks while decoding, whole 8x8 blocks: sides become ceil(side / by), the scale is exactly 1 / by.
    by = min(reduce, 8) if data[:2].tobytes() == JPEG_MAGIC else 1
    wanted = (-(-record.height // by), -(-record.width // by))
    image = _decode(data, REDUCED[by])
    if image is not None and image.shape[:2] != wanted:
        image = _decode(data, REDUCED[by] | cv2.IMREAD_IGNORE_ORIENTATION)  # labels made on the image as stored
    if image is None or image.shape[:2] != wanted:
        return None
    image, (x, y) = shrink(image, reduce // by)
    return image, (x / by, y / by)


def shrink(image: np.ndarray, reduce: int) -> tuple[np.ndarray, Scale]:
    """An image at 1/reduce of its size by averaging, and the scale that rounding of its sides really gave."""
    height, width = image.shape[:2]
    if reduce == 1:
        return image, (1.0, 1.0)
    small = max(round(height / reduce), 1), max(round(width / reduce), 1)
    return cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA), (small[1] / width, small[0] / height)


class ImageStore:
    """The pixels behind a sequence of records, decoded when asked for or held in memory.

    cache: None decodes each time; "ram" decodes everything once, at longest side `side`, into one block that forked
    workers share. An image that cannot be decoded is warned of once and counted in `damaged`, whichever worker met it.
    """

    def __init__(self, records: Sequence[Record], side: int, cache: str | None = None) -> None:
        if cache not in (None, "ram"):
            raise UserError(f"cache {cache!r} is not known: use 'ram' or none")
        self.records, self.side = records, side
        self._damaged = torch.zeros(len(records), dtype=torch.bool).share_memory_()
        self._block: np.ndarray | None = None
        if cache == "ram":
            self._fill()

    @property
    def damaged(self) -> list[str]:
        """Paths of the images that could not be decoded so far, in any worker."""
        return [self.records[i].path for i in self._damaged.nonzero().flatten().tolist()]

    def load(self, index: int, scale: float = 1.0) -> tuple[np.ndarray, Scale] | None:
        """Image `index`, as many pixels as a drawing at `scale` pixels per original pixel needs; None where damaged.

        Returns the image and its own scale. It may be a view into the cache: read it, do not write to it.
        """
        record = self.records[index]
        if self._block is None:
            loaded = read_for(record, reduction(scale))
            if loaded is None:
                self._report(index)
            return loaded
        if self._damaged[index]:
            return None
        height, width = fit_side((record.height, record.width), self.side)
        held = (width / record.width, height / record.height)
        image = self._block[self._starts[index]:self._starts[index + 1]].reshape(height, width, 3)
        image, (x, y) = shrink(image, reduction(scale / min(held)))
        return image, (x * held[0], y * held[1])

    def _fill(self) -> None:
        areas = [height * width for height, width in (fit_side((r.height, r.width), self.side) for r in self.records)]
        self._starts = np.cumsum([0, *areas]) * 3
        need, free = int(self._starts[-1]), _free_memory()
        if need > free:
            raise UserError(f"cache ram needs {need / 2**30:.1f} GiB for {len(self.records)} images at {self.side} px "
                            f"but {free / 2**30:.1f} GiB are free: leave the cache off or lower the image size")
        self._block = np.empty(need, np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._fill_one, range(len(self.records))):
                pass

    def _fill_one(self, index: int) -> None:
        record = self.records[index]
        height, width = fit_side((record.height, record.width), self.side)
        loaded = read_for(record, reduction(max(height, width) / max(record.height, record.width)))
        if loaded is None:
            self._report(index)
            return
        image = loaded[0]
        if image.shape[:2] != (height, width):
            how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=how)
        self._block[self._starts[index]:self._starts[index + 1]] = image.reshape(-1)

    def _report(self, index: int) -> None:
        if not self._damaged[index]:
            self._damaged[index] = True
            warnings.warn(f"{self.records[index].path}: cannot be decoded or has changed size since it was indexed; it "
                          "teaches nothing (grey, ignored) until the file is replaced", stacklevel=2)


def _read_bytes(path: str) -> np.ndarray | None:
    try:  # np.fromfile, because cv2.imread takes no Unicode path on every system
        return np.fromfile(path, np.uint8)
    except OSError:
        return None


def _decode(data: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:
        return None


def _free_memory() -> float:
    """Bytes that can be taken without swapping; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:")), float("inf"))
