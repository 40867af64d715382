"""The check of the images themselves: which can be used, their sizes, and what is unusual about them, counted.

Legend: n images.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from data.file_threads import in_threads
from data.images.decode import MAX_PIXELS, TooLarge, deep_values, depth_of, read_bytes, read_kind
from data.images.headers import Header, read_header
from data.labels.scan_report import ScanReport

LOOKED_AT = 16  # images of more than 8 bits that are decoded to see which range they use


def read_headers(paths: Sequence[str], report: ScanReport,
                 max_pixels: int = MAX_PIXELS) -> tuple[list[Header | Exception], np.ndarray]:
    """(headers, sizes (n, 2) height and width as displayed): an error and (0, 0) for an image that cannot be used."""
    headers = list(in_threads(partial(_header, max_pixels=max_pixels), paths))
    for path, found in zip(paths, headers, strict=True):
        if isinstance(found, FileNotFoundError):
            report.add("missing_image", path)
        elif isinstance(found, Exception):
            report.add("large_image" if isinstance(found, TooLarge) else "corrupt_image", f"{path} ({_reason(found)})")
        elif found.endless:
            report.add("endless_image", path)
    sizes = [(h.height, h.width) if isinstance(h, Header) else (0, 0) for h in headers]
    _report_depth([path for path, h in zip(paths, headers, strict=True) if isinstance(h, Header) and h.deep], report)
    return headers, np.array(sizes, np.int64).reshape(-1, 2)


def report_turned(paths: Sequence[str], headers: Sequence[Header | Exception], sizes: np.ndarray,
                report: ScanReport) -> None:
    """Count images that are turned or mirrored as EXIF says; sizes (n, 2): of the frames that their labels are in."""
    for path, found, size in zip(paths, headers, sizes.tolist(), strict=True):
        if isinstance(found, Header) and found.orientation != 1 and size == [found.height, found.width]:
            report.add("turned_image", f"{path} (orientation {found.orientation})")


def _header(path: str, max_pixels: int) -> Header | Exception:
    try:
        return read_header(path, max_pixels)
    except Exception as error:  # decoders raise anything on damaged files; each error is reported with its image
        return error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _report_depth(paths: Sequence[str], report: ScanReport) -> None:
    """Count images of more than 8 bits, and say which range some of them use, since it sets their brightness."""
    if not paths:
        return
    looked = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, LOOKED_AT).astype(int))]
    highest = [found for found in in_threads(_brightest, looked) if found is not None]
    said = "their range is not known"
    if highest:
        bits = Counter(f"{depth_of(value)} bits" if value <= 65535 else "their own range" for value in highest)
        spread = ", ".join(f"{n} as {depth}" for depth, n in sorted(bits.items()))
        said = f"{looked[0]}, brightest value {highest[0]:g}; of {len(highest)} looked at, read {spread}"
    report.add("deep_image", said, len(paths))


def _brightest(path: str) -> float | None:
    try:
        data = read_bytes(path)
        values = deep_values(data, read_kind(data))
        return None if values is None else float(np.nan_to_num(values, posinf=0, neginf=0).max())
    except Exception:  # reported with its image where it cannot be used
        return None
