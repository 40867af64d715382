"""The window of `--view-img`."""

import os
import sys

import cv2

from engine.inference.detections import ImageDetections
from utils.errors import UserError, printable
from utils.reporting.draw import Style

KEYS = (ord("q"), 27)  # q, Escape
NO_WINDOWS = 'this OpenCV has no windows (opencv-python-headless); install opencv-python in its place, or drop the flag'


class Window:
    """Shows detections drawn in, a window for each stream and one for all files. Raises `UserError` where it cannot."""

    def __init__(self, style: Style) -> None:
        self.style = style
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--view-img: there is no display here (DISPLAY is not set); drop the flag, the results are "
                            "files", "no-display")
        try:
            cv2.namedWindow("assn", cv2.WINDOW_NORMAL)
            cv2.destroyWindow("assn")
        except cv2.error:
            raise UserError(f"--view-img: {NO_WINDOWS}", "no-display") from None

    def show(self, found: ImageDetections) -> bool:
        """Show one image; False if q or Escape was pressed."""
        name = printable(found.path) if found.frame.kind == "stream" else "detections"
        cv2.namedWindow(name, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.imshow(name, found.plot(self.style))
        return cv2.waitKey(1) & 0xFF not in KEYS

    def close(self) -> None:
        cv2.destroyAllWindows()
