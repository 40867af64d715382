"""Cameras and network streams as a source: one or several at once, the newest frame of each in turn."""

import threading
import time
from collections.abc import Iterator, Sequence

from data.images.decode import MAX_PIXELS
from engine.inference.sources.addresses import PORTS, is_camera, is_url, scheme, shown_names, without_secrets
from engine.inference.sources.files import KINDS, is_image
from engine.inference.sources.frames import Frame, Source
from engine.inference.sources.reader import PATIENCE, POLL, Patience, Reader
from utils.errors import UserError, printable

SILENCE = 4  # times the time-out: a driver that has given no sign for so long is given up


class StreamSource(Source):
    """The frames of `addresses` (numbers of cameras, URLs), interleaved; each stream is read in a thread of its own.

    Ends when every stream has ended or was given up, or when it is stopped. Memory: two frames per stream.
    """

    def __init__(self, source: str, addresses: Sequence[str], vid_stride: int = 1, max_pixels: int = MAX_PIXELS,
                 patience: Patience = PATIENCE) -> None:
        super().__init__(without_secrets(source))
        self.addresses, self.vid_stride, self.max_pixels = list(addresses), vid_stride, max_pixels
        self.patience = patience

    def __len__(self) -> int:
        """Number of streams."""
        return len(self.addresses)

    def _frames(self) -> Iterator[Frame]:
        changed = threading.Condition()
        readers = [Reader(address, name, self.vid_stride, self.patience, changed, self.max_pixels, _tell)
                   for address, name in zip(self.addresses, shown_names(self.addresses), strict=True)]
        for reader in readers:
            reader.start()
        try:
            yield from self._in_turn(readers, changed)
        finally:
            for reader in readers:
                reader.stopped = True
            with changed:
                changed.notify_all()
            for reader in readers:
                reader.join(2 * self.patience.timeout + POLL)
            self._report(readers)

    def _in_turn(self, readers: list[Reader], changed: threading.Condition) -> Iterator[Frame]:
        """The newest frame of each reader that has one, in turn, until all are over."""
        turn, seen = 0, False
        while not self.stopped:
            with changed:
                self._give_up_silent(readers)
                order = readers[turn:] + readers[:turn]
                reader, frame = next(((r, f) for r in order if (f := r.take()) is not None), (None, None))
                if frame is None:
                    if not seen and all(reader.failed or reader.over for reader in readers):
                        raise UserError(_unreachable(readers), "unreachable-source")
                    if all(reader.over for reader in readers):
                        return
                    changed.wait(POLL)
                    continue
            seen, turn = True, (readers.index(reader) + 1) % len(readers)
            yield frame

    def _give_up_silent(self, readers: list[Reader]) -> None:
        limit = max(SILENCE * self.patience.timeout, self.patience.reconnect)
        for reader in readers:
            if not reader.over and time.monotonic() - reader.alive_at > limit:
                reader.reason, reader.stopped, reader.over = f"gave no sign for {limit:g} s", True, True

    def _report(self, readers: list[Reader]) -> None:
        for reader in readers:
            if reader.reason and not self.stopped:
                (self.incomplete if reader.received else self.skipped).append(f"{reader.name}: {reader.reason}")
            if reader.lost:
                self.incomplete.append(f"{reader.name}: {reader.lost} of {reader.received} frames cannot be decoded")
            if reader.received:
                dropped = f", {reader.dropped} dropped to stay with the newest" if reader.dropped else ""
                breaks = f", connected again {reader.breaks} times" if reader.breaks else ""
                self.notes.append(f"{reader.name}: {reader.received} frames received{dropped}{breaks}")


def _tell(text: str) -> None:
    print(printable(text), flush=True)


def _unreachable(readers: list[Reader]) -> str:
    first = f"{readers[0].name}: cannot be read: {readers[0].reason}"
    return first if len(readers) == 1 else f"none of {len(readers)} streams can be read; the first, {first}"


def is_stream(source: str) -> bool:
    """Whether a source is a camera or a URL, and not a file."""
    return is_camera(source) or is_url(source)


def check_streams(addresses: Sequence[str]) -> None:
    """Raises `UserError` for the URL of a picture, which is not downloaded, and for schemes that are no streams."""
    for address in addresses:
        if address.isdecimal():
            continue
        name = without_secrets(address)
        if is_image(address.partition("?")[0]) and scheme(address) in ("http", "https"):
            raise UserError(f"{name}: nothing is downloaded here; fetch the picture first (curl -O <URL>), then give "
                            f"{KINDS}", "unsupported-source")
        if scheme(address) not in PORTS or "://" not in address:
            raise UserError(f"{name}: not the URL of a stream; those begin with "
                            f"{', '.join(f'{word}://' for word in PORTS)}; of files give the path instead",
                            "unsupported-source")
