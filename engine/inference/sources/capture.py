"""Opening a camera or a network stream with OpenCV, with limits on how long that may take."""

import cv2

from engine.inference.sources.addresses import why_unreachable
from engine.inference.sources.videos import check_size, quiet_ffmpeg


class Unreachable(Exception):  # noqa: N818  told as a sentence, not raised to the user
    """A camera or stream that cannot be opened now; its text says why."""


def open_stream(address: str, timeout: float, max_pixels: int) -> cv2.VideoCapture:
    """A camera, by its number, or a URL, opened. timeout: seconds that a frame may take, and opening twice as
    long; a camera's driver has its own limit.

    Raises `Unreachable`, and `ValueError` if its frames are too large.
    """
    quiet_ffmpeg()
    try:
        if address.isdecimal():
            capture = cv2.VideoCapture(int(address))
        else:
            limit = max(int(1000 * timeout), 1)
            capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 2 * limit,
                                                                 cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit])
    except Exception:  # whatever a driver or demuxer raises
        capture = None
    if capture is None or not capture.isOpened():
        raise Unreachable(why_unreachable(address, 2 * timeout))
    check_size(capture, max_pixels)
    return capture
