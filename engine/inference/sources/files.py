"""Sources of detect.py: an image, a folder, a glob, a list file or a video, as one stream of frames.

Legend: H, W pixels of a frame. A new kind of source (a camera, a network stream) is one more function that yields
`Frame`s, chosen in `Source._frames`.
"""

import glob
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from data.formats.paths import IMAGE_SUFFIXES
from data.images.decode import MAX_PIXELS, decode, is_animated, open_plain, read_bytes
from utils.errors import UserError, printable

OTHER_SUFFIXES = frozenset({".heic", ".heif", ".jxl"})  # photographs that no decoder here reads: reported as skipped
VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm",
                            ".wmv"})
LIST_SUFFIXES = frozenset({".txt", ".streams"})
READABLE = "images ({}) or videos ({})".format(*(" ".join(sorted(s)) for s in (IMAGE_SUFFIXES, VIDEO_SUFFIXES)))
KINDS = "an image, a folder, a glob, a .txt list or a video file"
DEFAULT_FPS = 30.0  # where a file names none
FPS_RANGE = (0.1, 480.0)  # other values are taken for none
MIN_FRAMES = 0.9  # a video with less than this fraction of its announced frames is reported as cut off


@dataclass(frozen=True)
class Frame:
    """One image (H, W, 3) uint8 BGR of the file `path`.

    index: number of the frame in its video, 0 for an image; frames: number of frames that the video announces (0 if
    unknown), 1 for an image; fps: frames per second of the video, 0 for an image.
    """

    path: str
    index: int
    image: np.ndarray
    kind: Literal["image", "video"]
    fps: float = 0.0
    frames: int = 1

    def __str__(self) -> str:
        if self.kind == "video":
            return f"video {printable(self.path)} frame {self.index + 1}/{self.frames or '?'}"
        return f"image {printable(self.path)}"


@dataclass
class Source:
    """An iterable of `Frame`s over `files`, in order; after a pass, `skipped` lists what could not be read and why.

    max_pixels: larger images and videos are skipped.
    """

    source: str
    files: list[str]
    vid_stride: int = 1
    max_pixels: int = MAX_PIXELS
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of files; a video counts once."""
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = []
        seen = 0
        for path in self.files:
            try:
                for frame in self._frames(path):
                    seen += 1
                    yield frame
            except FileNotFoundError:
                self.skipped.append(f"{path}: no such file")
            except (OSError, ValueError) as error:
                self.skipped.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        if not seen:
            what = "cannot be read as an image or a video" if len(self.files) == 1 else (
                f"none of its {len(self.files)} files can be read as an image or a video")
            reason = f" ({self.skipped[0].removeprefix(f'{self.source}: ')})" if self.skipped else ""
            raise UserError(f"{without_secrets(self.source)}: {what}{reason}; check that the files are whole",
                            "unreadable-source")

    def _frames(self, path: str) -> Iterator[Frame]:
        if Path(path).suffix.lower() in VIDEO_SUFFIXES and not _is_still(path):
            yield from self._video(path)
        else:
            yield Frame(path, 0, decode(read_bytes(path), self.max_pixels), "image")

    def _video(self, path: str) -> Iterator[Frame]:
        capture = open_video(path, self.max_pixels)
        fps, frames = _number(capture, cv2.CAP_PROP_FPS), int(_number(capture, cv2.CAP_PROP_FRAME_COUNT))
        fps = fps if FPS_RANGE[0] <= fps <= FPS_RANGE[1] else DEFAULT_FPS
        index = lost = 0
        try:
            while _grabbed(capture):  # frames that are not wanted are not decoded
                if index % self.vid_stride == 0:
                    image = _retrieved(capture)
                    if image is None:
                        lost += 1
                    else:
                        yield Frame(path, index, image, "video", fps, frames)
                index += 1
        finally:
            capture.release()
        if lost:
            self.skipped.append(f"{path}: {lost} of {index} frames cannot be decoded")
        if index < MIN_FRAMES * frames or index == 0:
            self.skipped.append(f"{path}: ends after {index} of {frames} frames")


def open_source(source: str, *, vid_stride: int = 1, max_pixels: int = MAX_PIXELS) -> Source:
    """Open an image, video, folder (not its subfolders), glob pattern or .txt list of files.

    vid_stride: take every vid_stride-th frame of a video. max_pixels: larger images are not decoded. Files that cannot
    be read are listed in `.skipped`. Raises `UserError`, before the first frame, if nothing matches, a folder is empty
    or the only file is a video that cannot be opened.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: give 1 for every frame, 2 for every second one, and so on",
                        "bad-value")
    files = _find(str(source))
    if len(files) == 1 and is_video(files[0]) and Path(files[0]).is_file():
        try:
            if not _is_still(files[0]):
                open_video(files[0], max_pixels).release()
        except (OSError, ValueError) as error:
            raise UserError(f"{files[0]}: {getattr(error, 'strerror', None) or error}", "unreadable-source") from None
    return Source(str(source), files, vid_stride, max_pixels)


def open_video(path: str, max_pixels: int = MAX_PIXELS) -> cv2.VideoCapture:
    """A video, opened. Raises `OSError` or `ValueError` if OpenCV cannot open it or its frames are too large."""
    open_plain(path, any_size=True)[0].close()
    try:
        capture = cv2.VideoCapture(path)
    except Exception:  # whatever a demuxer raises
        capture = None
    if capture is None or not capture.isOpened():
        raise ValueError(f"cannot be opened as a video; check that it is whole, or re-encode it "
                         f"(ffmpeg -i {Path(path).name} -c:v libx264 out.mp4)")
    width, height = (_number(capture, prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        capture.release()
        raise ValueError(f"frames of {width:.0f}x{height:.0f} are more than {max_pixels} pixels; "
                         f"--max-pixels raises the limit")
    return capture


def _grabbed(capture: cv2.VideoCapture) -> bool:
    try:
        return capture.grab()
    except cv2.error:
        return False


def _retrieved(capture: cv2.VideoCapture) -> np.ndarray | None:
    try:
        ok, image = capture.retrieve()
    except cv2.error:
        return None
    return image if ok and image is not None and image.size else None


def _is_still(path: str) -> bool:
    """Whether a file with the suffix of a video is a still image: a GIF of one frame, or not a GIF."""
    return Path(path).suffix.lower() == ".gif" and not is_animated(path)


def without_secrets(source: str) -> str:
    """A source for messages: without user, password and query of a URL."""
    return re.sub(r"\?\S*$", "?...", re.sub(r"(?<=:/)(/?)\S*@", r"\1***@", source)) if ":/" in source else source


def is_image(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES


def is_video(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _find(source: str) -> list[str]:
    path = Path(source)
    if source.isdigit() and not path.exists():
        raise UserError(f"{source}: cameras cannot be read; record a video first (ffmpeg -f v4l2 -i /dev/video{source} "
                        f"-t 60 camera.mp4), then give {KINDS}", "unsupported-source")
    if re.match(r"[a-z]+:/", source):
        raise UserError(_no_network(source), "unsupported-source")
    if path.is_dir():
        return _readable([str(p) for p in sorted(path.iterdir())], source, "the folder holds no")
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return _listed(path)
    if path.is_file():  # before globs: a file's name may hold brackets
        return _readable([source], source, "the file is none of the")
    if path.exists():
        raise UserError(f"{source}: a pipe or device, not a file; give {KINDS}", "unsupported-source")
    if glob.has_magic(source):
        return _readable(sorted(glob.glob(source, recursive=True)), source,  # noqa: PTH207 (pathlib refuses absolute)
                         "the pattern matches no")
    raise UserError(f"{source}: no such file or folder; give {KINDS}", "missing-file")


def _no_network(source: str) -> str:
    """The message for a URL, which is never opened."""
    name = without_secrets(source)
    if is_image(source.partition("?")[0]) and source.startswith("http"):
        return f"{name}: nothing is downloaded here; fetch the picture first (curl -O <URL>), then give {KINDS}"
    return (f"{name}: cameras and network streams cannot be read; record a video first (ffmpeg -i <URL> -t 60 "
            f"stream.mp4), then give {KINDS}")


def _listed(path: Path) -> list[str]:
    """The files of a list, one per line, relative to the current folder or else to that of the list."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file of paths, one per line",
                        "unreadable-source") from None
    streams = [line for line in lines if re.match(r"[a-z]+:/", line) or line.isdigit()]
    if streams:
        first = without_secrets(streams[0])
        raise UserError(f"{path}: lists {len(streams)} cameras or network streams, the first {first}; they cannot "
                        f"be read: record videos first (ffmpeg -i <URL> -t 60 stream.mp4) and list those",
                        "unsupported-source")
    files = [line if os.path.exists(line) else str(path.parent / line)  # noqa: PTH110  Path raises where it is too long
             for line in lines if line]
    foreign = [name for name in files if not is_image(name) and not is_video(name)]
    if foreign or not files:
        what = f"names {foreign[0][:200]}, which is no image or video" if foreign else "names no files"
        raise UserError(f"{path}: {what}; list paths of {READABLE}, one per line", "bad-list")
    return files


def _readable(paths: list[str], source: str, complaint: str) -> list[str]:
    files = [p for p in paths if (is_image(p) or is_video(p)) and not Path(p).is_dir()
             and not Path(p).name.startswith("._")]  # metadata files of macOS on other file systems
    if not files:
        raise UserError(f"{source}: {complaint} {READABLE}", "no-images")
    return files


def _number(capture: cv2.VideoCapture, prop: int) -> float:
    """A property of a video, 0 where it is unknown."""
    value = capture.get(prop)
    return value if math.isfinite(value) and value > 0 else 0.0
