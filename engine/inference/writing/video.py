"""Result videos: H.264 by PyAV where it is installed, which browsers play, otherwise MPEG-4 by OpenCV.

Legend: H, W pixels of a frame.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from utils.errors import UserError
from utils.files import prefix, sweep

LARGEST_SIDE = 8190  # pixels, of MPEG-4
MAX_REPEATS = 300  # frames that MPEG-4 shows again for frames that were not looked at
# CRF 23 is x264's own default; of its presets `veryfast` is the first below which files grow by more than time shrinks.
H264 = {"libx264": {"crf": "23", "preset": "veryfast"}, "libopenh264": {}}
NO_H264 = 'videos are MPEG-4, which browsers do not play; for H.264: pip install "assn[video]"'


class Encoder(Protocol):
    def write(self, image: np.ndarray, position: int) -> None:
        """Add an HWC BGR uint8 frame of the encoder's size; position: counted in frames from the start."""

    def close(self) -> None: ...


class OpenCVEncoder:
    """MPEG-4; a frame stays until the next one, so that what was not looked at does not shorten the video."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        fps = round(fps, 2 if fps > 60 else 3)  # of 16 bits
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        self._next, self._last = 0, None
        if not self._writer.isOpened():
            raise OSError("OpenCV cannot write mp4 video here")

    def write(self, image: np.ndarray, position: int) -> None:
        for _ in range(min(position - self._next, MAX_REPEATS) if self._last is not None else 0):
            self._writer.write(self._last)
        self._writer.write(image)
        self._next, self._last = position + 1, image

    def close(self) -> None:
        self._writer.release()


class AvEncoder:
    """H.264 in yuv420p; frames have the times of their positions."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        import av

        self._av, self._last = av, -1
        codec = next(name for name in H264 if name in av.codecs_available)
        rate = Fraction(fps).limit_denominator(1001)
        with self._as_os_error():
            self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
            self._stream = self._container.add_stream(codec, rate=rate, options=H264[codec])
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", 1 / rate

    def write(self, image: np.ndarray, position: int) -> None:
        # CPU time of a frame of 1280x720 with its encoding: 14 to 17 ms with OpenCV's conversion, 20 to 21 with PyAV's
        frame = self._av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        frame.pts = self._last = max(position, self._last + 1)  # times only rise
        with self._as_os_error():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with self._as_os_error():
            try:
                self._container.mux(self._stream.encode())
            finally:
                self._container.close()

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            raise OSError(error.strerror or str(error)) from None


def has_h264() -> bool:
    """Whether PyAV is installed with an encoder of H.264."""
    try:
        import av
    except ImportError:
        return False
    return any(name in av.codecs_available for name in H264)


class VideoFile:
    """An mp4 that is written under a temporary name; `close` renames it, `drop` removes it.

    Raises `UserError` if it cannot be written.
    """

    def __init__(self, path: Path, fps: float, height: int, width: int) -> None:
        self.shape = height, width
        shrink = min(1.0, LARGEST_SIDE / max(height, width))
        self.inner = max(round(width * shrink), 1), max(round(height * shrink), 1)
        self.size = tuple(side + side % 2 for side in self.inner)  # encoders drop an odd last column
        self.path, self.frames = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix("video"), suffix=path.suffix)
        os.close(handle)
        self.part = Path(name)  # its own name is ASCII: not every OpenCV takes others
        fps = fps if math.isfinite(fps) and fps > 0 else 30.0
        kind = AvEncoder if has_h264() else OpenCVEncoder
        try:
            self.encoder: Encoder = kind(self.part, fps, self.size)
        except OSError as error:
            self.part.unlink(missing_ok=True)
            raise self._unwritable(error) from None

    def write(self, image: np.ndarray, position: int | None = None) -> None:
        """Add one HWC BGR uint8 frame; frames of another size are scaled to that of the first. position: counted in
        frames from the start, by default the next."""
        if image.shape[1::-1] != self.inner:
            image = cv2.resize(image, self.inner)
        if self.inner != self.size:
            right, below = (outer - side for outer, side in zip(self.size, self.inner, strict=True))
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        try:
            self.encoder.write(np.ascontiguousarray(image), self.frames if position is None else position)
        except OSError as error:
            raise self._unwritable(error) from None
        self.frames += 1

    def close(self) -> None:
        try:
            self.encoder.close()
        except OSError as error:
            raise self._unwritable(error) from None
        if not self.part.is_file() or not self.part.stat().st_size:
            raise self._unwritable("is the disk full?")
        self.part.chmod(0o644)  # mkstemp gives 0600, which would hide results from other users
        self.part.replace(self.path)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self.encoder.close()
        self.part.unlink(missing_ok=True)

    def _unwritable(self, why: Any) -> UserError:
        return UserError(f"{self.path}: the video cannot be written ({why}); use --nosave, or check folder and disk",
                         "unwritable-file")
