"""What `detect` reads: an image, a folder, a glob, a list file or a video, as one stream of frames.

Legend: H, W pixels of a frame. A new kind of source (a camera, a network stream) is one more function that yields
`Frame`s, chosen in `Source._frames`.
"""

import glob
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from data.decode import MAX_PIXELS, decode, read_bytes
from utils.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".dib", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
                            ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm",
                            ".wmv"})
READABLE = "images ({}) or videos ({})".format(*(" ".join(sorted(s)) for s in (IMAGE_SUFFIXES, VIDEO_SUFFIXES)))
KINDS = "an image, a folder, a glob, a .txt list or a video file"
DEFAULT_FPS = 30.0  # for files that do not say
TORN = 0.9  # a video that ends before this share of its announced frames is told as cut off


@dataclass(frozen=True)
class Frame:
    """One picture: image (H, W, 3) uint8 BGR, from the file `path`.

    index: number of the frame in its video, 0 for an image; frames: how many the video says it has (0 where it does not
    say), 1 for an image; fps: frames per second of the video, 0 for an image.
    """

    path: str
    index: int
    image: np.ndarray
    kind: Literal["image", "video"]
    fps: float = 0.0
    frames: int = 1


@dataclass
class Source:
    """An iterable of `Frame`s over `files`, in order; `skipped` tells, after the pass, what could not be read."""

    source: str
    files: list[str]
    vid_stride: int = 1
    max_pixels: int = MAX_PIXELS
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """How many files there are; a video counts once."""
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = []
        seen = 0
        for path in self.files:
            for frame in self._frames(path):
                seen += 1
                yield frame
        if not seen:
            what = "cannot be read as an image or a video" if len(self.files) == 1 else (
                f"none of its {len(self.files)} files can be read as an image or a video")
            raise UserError(f"{self.source}: {what}; check that the files are whole")

    def _frames(self, path: str) -> Iterator[Frame]:
        return self._video(path) if is_video(path) else self._image(path)

    def _image(self, path: str) -> Iterator[Frame]:
        try:
            image = decode(read_bytes(path), self.max_pixels)
        except FileNotFoundError:
            self.skipped.append(f"{path}: no such file")
        except (OSError, ValueError) as error:
            self.skipped.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        else:
            yield Frame(path, 0, image, "image")

    def _video(self, path: str) -> Iterator[Frame]:
        capture = open_video(path)
        fps, frames = _number(capture, cv2.CAP_PROP_FPS) or DEFAULT_FPS, int(_number(capture, cv2.CAP_PROP_FRAME_COUNT))
        index = 0
        try:
            while capture.grab():  # decoding of frames that are not wanted is left out
                if index % self.vid_stride == 0:
                    ok, image = capture.retrieve()
                    if not ok:
                        break
                    yield Frame(path, index, image, "video", fps, frames)
                index += 1
        finally:
            capture.release()
        if index < TORN * frames or index == 0:
            self.skipped.append(f"{path}: ends after {index} of {frames} frames")


def open_source(source: str, *, vid_stride: int = 1, max_pixels: int = MAX_PIXELS) -> Source:
    """Open an image, video, folder (not its subfolders), glob pattern or .txt list of files.

    vid_stride: take every vid_stride-th frame of a video. An unreadable image among others is counted in `.skipped`.
    Raises `UserError` where nothing matches, a folder is empty or a video cannot be opened; all before the first frame.
    """
    if vid_stride < 1:
        raise UserError(f"--vid-stride {vid_stride}: give 1 for every frame, 2 for every second one, and so on")
    files = _find(str(source))
    for path in filter(is_video, files):
        open_video(path).release()
    return Source(str(source), files, vid_stride, max_pixels)


def open_video(path: str) -> cv2.VideoCapture:
    """A video ready to be read. Raises `UserError` where OpenCV cannot open it."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such video file")
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        raise UserError(f"{path}: cannot be opened as a video; check that it is whole, or re-encode it "
                        f"(ffmpeg -i {Path(path).name} -c:v libx264 out.mp4)")
    return capture


def is_image(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def is_video(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _find(source: str) -> list[str]:
    path = Path(source)
    if path.is_dir():
        return _readable([str(p) for p in sorted(path.iterdir())], source, "the folder holds no")
    if path.is_file() and path.suffix.lower() == ".txt":
        return _listed(path)
    if path.is_file():  # before globs: a file's name may hold brackets
        return _readable([source], source, "the file is none of the")
    if glob.has_magic(source):
        return _readable(sorted(glob.glob(source, recursive=True)), source,  # noqa: PTH207 (pathlib refuses absolute)
                         "the pattern matches no")
    if source.isdigit() or "://" in source:
        raise UserError(f"{source}: cameras and network streams cannot be read; give {KINDS}")
    raise UserError(f"{source}: no such file or folder; give {KINDS}")


def _listed(path: Path) -> list[str]:
    """The files named in a list, one per line, relative to the list's folder where they are not found from here."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file of paths, one per line") from None
    files = [line if Path(line).exists() else str(path.parent / line) for line in lines if line]
    foreign = [name for name in files if not is_image(name) and not is_video(name)]
    if foreign or not files:
        what = f"names {foreign[0]}, which is no image or video" if foreign else "names no files"
        raise UserError(f"{path}: {what}; list paths of {READABLE}, one per line")
    return files


def _readable(paths: list[str], source: str, complaint: str) -> list[str]:
    files = [p for p in paths if (is_image(p) or is_video(p)) and Path(p).is_file()]
    if not files:
        raise UserError(f"{source}: {complaint} {READABLE}")
    return files


def _number(capture: cv2.VideoCapture, prop: int) -> float:
    """A property of a video, 0 where it is unknown."""
    value = capture.get(prop)
    return value if math.isfinite(value) and value > 0 else 0.0
