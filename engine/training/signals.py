"""Ending a run at a point from which it can go on, when it is told to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any


class Stopped(Exception):  # noqa: N818  nothing went wrong
    """Raised at a safe point after SIGTERM or SIGINT; `code` is what the process should end with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class StopRequest:
    """While this context is entered, the first SIGTERM or SIGINT is only remembered; a second one interrupts at once.

    Schedulers send SIGTERM some seconds before they kill, people press Ctrl-C: both want the work kept.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0: go on
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to no other
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        # not print: its buffer may be in use at the moment that the signal breaks into
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # nobody may be listening
            os.write(2, f"\n{name}: finishing this step, then saving; once more stops at once\n".encode())

    def check(self) -> None:
        """Raise `Stopped` where a signal has come."""
        if self.number:
            raise Stopped(self.number)

    def between(self, items: Collection) -> "Watched":
        """The same items, with a `check` before each."""
        return Watched(self, items)


class Watched:
    """A sized iterable that ends with `Stopped` when its request has come."""

    def __init__(self, request: StopRequest, items: Collection) -> None:
        self.request, self.items = request, items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.request.check()
            yield item
