"""A thread that reads one camera or stream and keeps its newest frame."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2

from data.images.decode import MAX_PIXELS
from engine.inference.sources.capture import Unreachable, open_stream
from engine.inference.sources.frames import Frame
from engine.inference.sources.videos import MIN_FRAMES, grab, number, rate, retrieve

BROKE = "it ended or broke off"
POLL = 0.1  # seconds between two looks at whether to stop


@dataclass(frozen=True)
class Patience:
    """How long is waited for a stream, in seconds. timeout: for a frame; opening may take twice as
    long, since some cameras first send seconds of what cannot be decoded; reconnect: without a frame
    until it is given up; first, longest: pause before it is tried again, doubled each time."""

    timeout: float = 5.0
    reconnect: float = 60.0
    first: float = 1.0
    longest: float = 30.0


PATIENCE = Patience()


class Reader(threading.Thread):
    """Reads the stream `address`, called `name` in messages, until it ends, is given up, or `stopped` is set.

    A live stream goes on whether its frames are taken or not, so that only the newest is kept and the others are
    counted as `dropped`; a recording, whose length is known, waits until its frame is taken. changed: is notified of
    each frame and at the end. received: frames so far; lost: of those that could not be decoded; breaks: how often the
    stream was connected again; failed: whether the first connection gave no frame; reason: why it was given up.
    """

    def __init__(self, address: str, name: str, vid_stride: int, patience: Patience, changed: threading.Condition,
                 max_pixels: int = MAX_PIXELS, tell: Callable[[str], None] = print) -> None:
        super().__init__(name=name, daemon=True)  # a driver that never answers must not keep the program alive
        self.address, self.vid_stride, self.patience = address, vid_stride, patience
        self.changed, self.max_pixels, self.tell = changed, max_pixels, tell
        self.stopped = self.over = self.failed = False
        self.received = self.dropped = self.lost = self.breaks = 0
        self.reason = ""
        self.began = self.alive_at = time.monotonic()  # of the last sign of life
        self._newest: Frame | None = None

    def take(self) -> Frame | None:
        """The newest frame, once. Called with `changed` held."""
        frame, self._newest = self._newest, None
        if frame is not None:
            self.changed.notify_all()
        return frame

    def run(self) -> None:
        try:
            self._run()
        except ValueError as error:  # too large
            self.reason = str(error)
        except Exception as error:  # of a driver or decoder: this stream ends, the others go on
            self.reason = f"{type(error).__name__} while reading"
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def _run(self) -> None:
        patience, pause, last = self.patience, self.patience.first, time.monotonic()
        while not self.stopped:
            before, why = self.received, BROKE
            try:
                capture = open_stream(self.address, patience.timeout, self.max_pixels)
            except Unreachable as error:
                why = str(error)
            else:
                self.breaks += before > 0
                if self._read(capture):
                    return
            if self.stopped:
                return
            if self.received > before:
                pause, last = patience.first, time.monotonic()
            elif not self.received:
                why = why if why != BROKE else "it opened, but sent no frame"
                with self.changed:
                    self.failed, self.reason = True, why
                    self.changed.notify_all()
                self._sleep(2 * POLL)  # if no other stream works the program ends, and nothing is tried again
                if self.stopped:
                    return
            waited = time.monotonic() - last
            if waited + pause > patience.reconnect:
                self.reason = why + (f"; no frame for {waited:.0f} s" if waited >= 1 else "")
                return
            self.tell(f"{self.name}: {why}; trying again in {pause:g} s")
            self._sleep(pause)
            pause = min(2 * pause, patience.longest)

    def _read(self, capture: cv2.VideoCapture) -> bool:
        """Read until the connection ends; True after a recording, which would begin anew on another connection."""
        fps, frames = rate(capture), int(number(capture, cv2.CAP_PROP_FRAME_COUNT))
        began = self.received
        try:
            while not self.stopped and grab(capture):
                self.alive_at = time.monotonic()
                if self.received % self.vid_stride == 0:
                    image = retrieve(capture)
                    if image is None:
                        self.lost += 1
                    else:
                        clock = None if frames else self.alive_at - self.began
                        frame = Frame(self.name, self.received, image, "stream", fps, frames, clock)
                        self._offer(frame, wait=frames > 0)
                self.received += 1
        finally:
            capture.release()
        done = self.received - began
        if frames and done < MIN_FRAMES * frames:
            self.reason = f"ends after {done} of {frames} frames"
        return frames > 0 and done > 0

    def _offer(self, frame: Frame, wait: bool) -> None:
        with self.changed:
            while wait and self._newest is not None and not self.stopped:
                self.changed.wait(POLL)
                self.alive_at = time.monotonic()
            self.dropped += self._newest is not None
            self._newest, self.reason, self.failed = frame, "", False
            self.changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL))
            self.alive_at = time.monotonic()
