"""Stopping a program on SIGTERM or SIGINT at a point at which its work is kept; whether a process still lives."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import Any


class Stopped(Exception):  # noqa: N818  no error
    """Raised at a safe point after SIGTERM or SIGINT; `code` is the exit code of the process."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class StopRequest:
    """Within this context the first SIGTERM or SIGINT is only recorded; a second one interrupts at once.

    Schedulers send SIGTERM some seconds before they kill a job, and users press Ctrl-C: in both cases the run is saved.
    then: what is said to come next; react: called with the first signal, must not take locks.
    """

    def __init__(self, then: str = "finishing this step, then saving", react: Callable[[], None] | None = None) -> None:
        self.then, self.react = then, react
        self.number = 0  # of the signal; 0: none
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # the only one that gets signals
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        # not print: its buffer may be in use when the signal arrives
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # stderr may have no reader
            os.write(2, f"\n{name}: {self.then}; once more stops at once\n".encode())
        if self.react:
            self.react()

    @property
    def code(self) -> int:
        """The exit code of a program that a signal has stopped."""
        return 128 + self.number

    def check(self) -> None:
        """Raise `Stopped` if a signal has arrived."""
        if self.number:
            raise Stopped(self.number)

    def between(self, items: Collection) -> "Watched":
        """The same items, with a `check` before each one."""
        return Watched(self, items)


class Watched:
    """A sized iterable that raises `Stopped` if a signal has arrived."""

    def __init__(self, request: StopRequest, items: Collection) -> None:
        self.request, self.items = request, items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.request.check()
            yield item


def lives(pid: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        return True
    return True
