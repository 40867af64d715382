"""A part of the page: what it says in plain words, its tables, and all of its values.

Size bins are those of the table of seen sizes (`data.doctor.seen_sizes.BINS`): roots of areas in pixels of the frame.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.record import table
from data.doctor.seen_sizes import BINS

BIN_NAMES = (f"< {BINS[0]}", *(f"{low}-{high}" for low, high in zip(BINS, BINS[1:], strict=False)), f">= {BINS[-1]}")


class Value(NamedTuple):
    """A row of the CSV. subject: what it is of, such as an assigner and a split; size: bin of objects, level: of the
    pyramid, "" where it is of all; value: None where it is undefined."""

    section: str
    subject: str
    size: str
    level: str
    quantity: str
    value: float | None


@dataclass
class Section:
    """title; said: sentences for the head of the page; lines: Markdown below the title; values: rows of the CSV."""

    title: str
    said: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def add(self, subject: str, quantity: str, value: float | None, size: str = "", level: str = "") -> None:
        """A row of the CSV."""
        self.values.append(Value(self.title, subject, size, level, quantity, None if value is None else float(value)))

    def add_table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table in Markdown, with a blank line after it."""
        self.lines += [*table(list(head), [list(row) for row in rows]), ""]


def bins_of(sizes: np.ndarray) -> np.ndarray:
    """The bin (N,) of each object, 0 to `len(BINS)`; sizes (N,) px."""
    return np.digitize(sizes, BINS)


def percent(share: float | None, digits: int = 1) -> str:
    """0.253 -> "25.3%"; "-" where it is undefined."""
    return "-" if share is None else f"{share:.{digits}%}"


def number(value: float | None, form: str = ".3f") -> str:
    """A value as text; "-" where it is undefined."""
    return "-" if value is None else f"{value:{form}}"


def level_title(number: int, strides: Sequence[int]) -> str:
    """Of the map that the head reads at this place; auxiliary ones come behind the others."""
    return f"stride {strides[number % len(strides)]}{' (auxiliary)' * (number >= len(strides))}"
