"""Video files, read with OpenCV."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from data.images.decode import MAX_PIXELS, is_animated, open_plain
from engine.inference.sources.frames import Frame

VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm",
                            ".wmv"})
DEFAULT_FPS = 30.0  # where a file names none
FPS_RANGE = (0.1, 480.0)  # other values are taken for none
MIN_FRAMES = 0.9  # a video with less than this fraction of its announced frames is reported as cut off


def is_video(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def is_still(path: str) -> bool:
    """Whether a file with the suffix of a video is a still image: a GIF of one frame, or not a GIF."""
    return Path(path).suffix.lower() == ".gif" and not is_animated(path)


def open_video(path: str, max_pixels: int = MAX_PIXELS) -> cv2.VideoCapture:
    """A video, opened. Raises `OSError` or `ValueError` if OpenCV cannot open it or its frames are too large."""
    open_plain(path, any_size=True)[0].close()
    quiet_ffmpeg()
    try:
        capture = cv2.VideoCapture(path)
    except Exception:  # whatever a demuxer raises
        capture = None
    if capture is None or not capture.isOpened():
        raise ValueError(f"cannot be opened as a video; check that it is whole, or re-encode it "
                         f"(ffmpeg -i {Path(path).name} -c:v libx264 out.mp4)")
    check_size(capture, max_pixels)
    return capture


def quiet_ffmpeg() -> None:
    """Before a video is opened: what goes wrong is told in our own words, and never with the address of a stream."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read with the first video of the process
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def check_size(capture: cv2.VideoCapture, max_pixels: int) -> None:
    """Close the video and raise `ValueError` if its frames are too large."""
    width, height = (number(capture, prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        capture.release()
        raise ValueError(f"frames of {width:.0f}x{height:.0f} are more than {max_pixels} pixels; "
                         f"--max-pixels raises the limit")


def read_video(path: str, vid_stride: int, max_pixels: int, incomplete: list[str]) -> Iterator[Frame]:
    """Every `vid_stride`-th frame of a video file; what could not be read of it is added to `incomplete`."""
    capture = open_video(path, max_pixels)
    fps, frames = rate(capture), int(number(capture, cv2.CAP_PROP_FRAME_COUNT))
    index = lost = 0
    try:
        while grab(capture):  # frames that are not wanted are not decoded
            if index % vid_stride == 0:
                image = retrieve(capture)
                if image is None:
                    lost += 1
                else:
                    yield Frame(path, index, image, "video", fps, frames)
            index += 1
    finally:
        capture.release()
    if lost:
        incomplete.append(f"{path}: {lost} of {index} frames cannot be decoded")
    if index < MIN_FRAMES * frames or index == 0:
        incomplete.append(f"{path}: ends after {index} of {frames} frames")


def grab(capture: cv2.VideoCapture) -> bool:
    """Go on to the next frame; False at the end."""
    try:
        return capture.grab()
    except cv2.error:
        return False


def retrieve(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The frame that was grabbed, None if it cannot be decoded."""
    try:
        ok, image = capture.retrieve()
    except cv2.error:
        return None
    return image if ok and image is not None and image.size else None


def rate(capture: cv2.VideoCapture) -> float:
    """Frames per second; `DEFAULT_FPS` where the video gives none that can be."""
    fps = number(capture, cv2.CAP_PROP_FPS)
    return fps if FPS_RANGE[0] <= fps <= FPS_RANGE[1] else DEFAULT_FPS


def number(capture: cv2.VideoCapture, prop: int) -> float:
    """A property of a video, 0 where it is unknown."""
    value = capture.get(prop)
    return value if math.isfinite(value) and value > 0 else 0.0
