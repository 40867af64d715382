"""Progress of a loop: a bar on a terminal; in a file or a pipe, lines that are few."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

STEPS = 10  # most lines of a loop where there is no terminal
SECONDS = 30  # least between two of them


class Progress:
    """The same items; how far they are is written to stderr.

    what: before the counts; `say` replaces it. start, total: items done before, and in all, 0 where that
    is not known. shown: by one process of
    several. kept: the end stays to be read, as a bar or a line.
    """

    def __init__(self, items: Iterable[Any], what: str, total: int, *, start: int = 0, unit: str = "it",
                 shown: bool = True, kept: bool = False) -> None:
        self.items, self.what, self.total, self.unit, self.kept = items, what, total, unit, kept
        self.shown, self.done, self._start = shown, start, start
        self._bar: tqdm | None = None

    def say(self, what: str) -> None:
        """The text before the counts from now on."""
        self.what = what
        if self._bar is not None:
            self._bar.set_description(what, refresh=False)

    def __iter__(self) -> Iterator[Any]:
        if not self.shown:
            return iter(self.items)
        return self._as_bar() if is_terminal() else self._as_lines()

    def _as_bar(self) -> Iterator[Any]:
        self._bar = tqdm(self.items, self.what, self.total or None, initial=self._start, unit=self.unit,
                         dynamic_ncols=True, leave=self.kept)
        yield from self._bar

    def _as_lines(self) -> Iterator[Any]:
        began = said = time.monotonic()
        step = max(1, -(-self.total // STEPS))
        for item in self.items:
            yield item
            self.done += 1
            now = time.monotonic()
            if self.done < self.total and self.done % step == 0 and now - said >= SECONDS:
                self._write(now - began)
                said = now
        if self.kept:
            self._write(time.monotonic() - began)

    def _write(self, seconds: float) -> None:
        minutes, rest = divmod(round(seconds), 60)
        of = f"/{self.total}" if self.total else ""
        print(f"{self.what}: {self.done}{of} {self.unit}, {minutes}:{rest:02d}", file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether stderr is read on a terminal, where a line can be written over."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False
