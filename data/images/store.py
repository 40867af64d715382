"""Decoding images in the frame of their labels, and caching decoded ones.

Training sees one canonical form of each image, its longest side S (smaller images may stay as they are): whether it was
decoded now, or comes from the pool, from memory or from disk, its bytes are the same.

Legend: n images, H, W pixels of the original frame, the one labels are in, S the training size; images are (h, w, 3)
uint8 BGR, OpenCV's order.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data.file_threads import in_threads
from data.images import image_cache
from data.images.decode import MAX_PIXELS, decode, decode_as, read_bytes, read_kind
from data.images.decoded_pool import DecodedPool
from data.images.letterbox import fit_side
from data.images.placement import Placement
from data.labels.records import Record, RecordTable
from data.shared_array import SharedArray
from utils.errors import UserError
from utils.frame import Frame

Scale = tuple[float, float]  # (x, y): pixels of the decoded image per pixel of the original frame

CACHES = (None, "ram", "disk")


def reduction(scale: float) -> int:
    """The largest of 1, 2, 4, ... 64 by which an image may be shrunk before a resize by `scale` without losing detail.

    What is left of the resize is then between a half and one, where linear interpolation misses no pixel.
    """
    return next((r for r in (64, 32, 16, 8, 4, 2) if scale * r <= 1.0), 1)


def read_image(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """Decode a file, (H, W, 3) BGR uint8; None where it cannot be used. Any Unicode path."""
    try:
        return decode(read_bytes(path), max_pixels)
    except (OSError, ValueError):
        return None


def read_whole(record: Record, reduce: int = 1) -> np.ndarray | None:
    """Decode the file of a record, all of it even for a window, in the frame that its labels were made in.

    reduce: 1, 2, 4 or 8 for a JPEG that is shrunk while it is decoded; other files keep their size. None where the file
    cannot be decoded or has another size than the record says, which is mostly known before a pixel is decoded.
    """
    size = tuple(record.full or (record.height, record.width))
    try:
        data = read_bytes(record.path)
        header = read_kind(data)
        turn = header is None or size == (header.height, header.width)
        if not turn and size != header.stored:  # as stored: labels made without a look at EXIF
            return None
        by = reduce if header is not None and header.kind == "jpeg" else 1
        image = decode_as(data, header, by, turn, max_pixels=size[0] * size[1])
    except (OSError, ValueError):
        return None
    return image if header is not None or image.shape[:2] == size else None


def read_frame(record: Record) -> np.ndarray | None:
    """The image of a record, (height, width, 3) BGR, for a window that part of the file; None as `read_whole`."""
    whole = read_whole(record)
    if whole is None or record.window is None:
        return whole
    x1, y1, x2, y2 = record.window
    return whole[y1:y2, x1:x2]


def read_canonical(record: Record, size: tuple[int, int], exact: bool = False, whole: np.ndarray | None = None, *,
                   linear: bool = False) -> np.ndarray | None:
    """Decode a record's image at `size` (height, width); None where it is damaged.

    exact: averaged over the pixels of the whole image; otherwise what libjpeg can shrink while decoding, it does.
    linear: with exact, interpolated instead. whole: the image of the record's file where it was decoded before. A
    window is cut out of it.
    """
    by = 1
    if whole is None:
        most = 1 if exact or record.window is not None else 8
        by = min(reduction(_ratio(size, (record.height, record.width))), most)
        whole = read_whole(record, by)
    if whole is None:
        return None
    x1, y1, x2, y2 = record.window or (0, 0, whole.shape[1], whole.shape[0])
    image = whole[y1:y2, x1:x2]
    if image.shape[:2] == size:
        return np.ascontiguousarray(image)
    if linear or size[0] > image.shape[0] or size[1] > image.shape[1]:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    if by == 1 or image.shape[:2] == (record.height, record.width):
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    # The last blocks reach out of the image: the scale is that of its own size, and what is too much is cut off.
    fy, fx = size[0] * by / record.height, size[1] * by / record.width
    image = cv2.resize(image, None, fx=fx, fy=fy, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[:size[0], :size[1]])


def _ratio(size: tuple[int, int], original: tuple[int, int]) -> float:
    """By how much an image is resized along the axis where it keeps most."""
    if size == fit_side(original, max(size)):  # rounding of the other side is no reason to decode more
        return max(size) / max(original)
    return max(size[0] / original[0], size[1] / original[1])


def shrink(image: np.ndarray, reduce: int) -> tuple[np.ndarray, Scale]:
    """An image at 1/reduce of its size by averaging, and the scale that rounding of its sides really gave."""
    height, width = image.shape[:2]
    if reduce == 1:
        return image, (1.0, 1.0)
    small = max(round(height / reduce), 1), max(round(width / reduce), 1)
    return cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA), (small[1] / width, small[0] / height)


def image_sizes(records: Sequence[Record]) -> np.ndarray:
    """(n, 2) height, width of the original frames."""
    if isinstance(records, RecordTable):
        return records.sizes.astype(np.int64)
    return np.array([(r.height, r.width) for r in records], np.int64).reshape(-1, 2)


def canonical_sizes(sizes: np.ndarray, side: int, enlarge: float = 1.0) -> np.ndarray:
    """(n, 2) height, width -> those after resizing each image to longest side `side`.

    An image that this would enlarge more than `enlarge` times stays as it is. The same rounding as
    `data.images.letterbox.fit_side`.
    """
    ratio = side / sizes.max(1, initial=1)[:, None]
    return np.where(ratio <= enlarge, np.maximum(np.rint(sizes * ratio).astype(np.int64), 1), sizes)


def held_sizes(sizes: np.ndarray, placement: Placement, enlarge: float = 1.0, detail: float = 1.0) -> np.ndarray:
    """(n, 2) height, width -> `detail` times those that images have in frames, by the rules of `canonical_sizes`."""
    if placement.frame.fit == "letterbox":
        return canonical_sizes(sizes, round(placement.side * detail), enlarge)
    fitted = np.rint(placement.fitted_all(sizes) * detail).astype(np.int64)
    return np.where((fitted > sizes * enlarge).any(1)[:, None], sizes, fitted)


class ImageStore:
    """The pixels behind a sequence of records, in canonical form: `detail` times as large as in their frames.

    placement: how they lie in frames; a number: letterboxed in squares of that side. cache: None decodes each time;
    "ram" decodes everything once into one block that workers share; "disk" into one file that all processes and later
    runs read. exact: for evaluation, where images shrink as the frame says and not while they are decoded. enlarge:
    images are brought up to their form by up to so much, once for all their mosaics. pool: where decoded images stay
    for a while, None or set later. An image that cannot be decoded is warned of once and counted in `damaged`,
    whichever worker met it.
    """

    def __init__(self, records: Sequence[Record], placement: Placement | int, cache: str | None = None, *,
                 exact: bool = False, enlarge: float = 1.0, detail: float = 1.0) -> None:
        if cache not in CACHES:
            raise UserError(f"cache {cache!r} is not known: use 'ram', 'disk' or none", "unknown-value")
        self.records, self.placement, self.exact = records, Placement.of(Frame(), placement), exact
        self.pool: DecodedPool | None = None
        self.sizes = image_sizes(records)
        self.canonical = held_sizes(self.sizes, self.placement, enlarge, detail)
        self._damaged = SharedArray(len(records), bool)
        self._block: SharedArray | None = None  # of all pixels, from self._starts[0] on
        if cache and len(records):
            self._starts = np.concatenate(([0], np.cumsum(self.canonical.prod(1) * 3)))
            self._fill_cache(cache)

    @property
    def side(self) -> int:
        """The longest side of images in their frames."""
        return self.placement.side

    @property
    def linear(self) -> bool:
        """Whether images shrink as evaluation wants it of a frame that averages none of their pixels."""
        return self.exact and self.placement.frame.shrink == "linear"

    @property
    def damaged(self) -> list[str]:
        """Paths of the images that could not be decoded so far, in any worker."""
        return list(dict.fromkeys(self.records[i].path for i in np.flatnonzero(self._damaged.array).tolist()))

    def is_damaged(self, index: int) -> bool:
        """Whether image `index` is known not to be decodable."""
        return bool(self._damaged.array[index])

    def load(self, index: int) -> tuple[np.ndarray, Scale] | None:
        """Image `index` in canonical form and its scale; None where damaged. Read it, do not write to it.

        It may be a view into the pool: ask `views_intact` after it was used.
        """
        if self.pool is None:
            return self.load_own(index)
        image = self.pool.get(index, tuple(self.canonical[index].tolist()))
        if image is not None:
            return image, self._scale(index)
        loaded = self.load_own(index)
        if loaded is not None:
            self.pool.put(index, loaded[0])
        return loaded

    def views_intact(self) -> bool:
        """Whether no image that `load` gave since the last call was overwritten; otherwise draw again (`load_own`)."""
        return self.pool is None or self.pool.views_intact()

    def load_own(self, index: int) -> tuple[np.ndarray, Scale] | None:
        """As `load`, but nobody else can write over what it returns."""
        if self._block is None:
            image = self._read(index, tuple(self.canonical[index].tolist()))
        elif self._damaged.array[index]:
            image = None
        else:
            height, width = self.canonical[index].tolist()
            image = self._block.array[self._starts[index]:self._starts[index + 1]].reshape(height, width, 3)
        return None if image is None else (image, self._scale(index))

    def load_whole(self, index: int) -> np.ndarray | None:
        """Image `index` at its original size where it is not cached, in canonical form where it is; for evaluation."""
        if self._block is not None:
            loaded = self.load_own(index)
            return None if loaded is None else loaded[0]
        return self._read(index, tuple(self.sizes[index].tolist()))

    def _scale(self, index: int) -> Scale:
        (height, width), (held_height, held_width) = self.sizes[index].tolist(), self.canonical[index].tolist()
        return held_width / width, held_height / height

    def _read(self, index: int, size: tuple[int, int], whole: np.ndarray | None = None) -> np.ndarray | None:
        try:
            image = read_canonical(self.records[index], size, self.exact, whole, linear=self.linear)
        except (cv2.error, MemoryError):  # more than this machine can hold: one image never ends a run
            image = None
        if image is None:
            self._report(index)
        return image

    def _report(self, index: int) -> None:
        if not self._damaged.array[index]:
            self._damaged.array[index] = True
            warnings.warn(f"{self.records[index].path}: cannot be decoded or has changed size since it was indexed; it "
                          "is drawn grey and excluded from the loss until the file is replaced", stacklevel=2)

    def _fill_cache(self, cache: str) -> None:
        if cache == "ram":
            self._block = image_cache.in_memory(self._read_each, self._starts, self.side)
            return
        setting = f"{self.side} {self.exact} {self._starts[-1]}"
        if self.placement.frame.fit != "letterbox" or self.linear:  # other forms may have as many bytes
            setting += f" {self.linear} {hashlib.blake2b(self.canonical.tobytes(), digest_size=8).hexdigest()}"
        self._block, first, damaged = image_cache.on_disk(self.records, setting, self._read_each, self._starts)
        self._starts = self._starts + first
        for index in np.flatnonzero(damaged).tolist():
            self._report(index)

    def _read_each(self, write: Callable[[int, np.ndarray | None], None]) -> None:
        """Decode all images, in threads, each file once; `write` gets an index and the image, None where damaged."""
        runs: list[list[int]] = []  # consecutive records of one file: its windows
        before = None
        for index, record in enumerate(self.records):
            if record.window is None or record.path != before:
                runs.append([])
            runs[-1].append(index)
            before = record.path

        def read(run: list[int]) -> None:
            whole = read_whole(self.records[run[0]]) if len(run) > 1 else None
            for index in run:
                write(index, self._read(index, tuple(self.canonical[index].tolist()), whole))

        for _ in in_threads(read, runs):
            pass
