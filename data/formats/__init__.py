"""Readers of label formats, a module each. A new format is a new module and its name in `READERS`.

`recognises(entry, images) -> bool`: whether a split is theirs, from its file or folder and some of its images.
`inputs(source) -> list[str]`: every file that the result depends on, for the cache to watch.
`read(source, report, polygons) -> RawLabels`: the labels as the files have them; what cannot be read is counted in the
report.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

READERS = ("coco", "voc", "visdrone", "dota", "yolo")  # the order in which they are asked; `yolo` takes the rest


class Reader(Protocol):
    """What a module of this folder offers."""

    recognises: Callable[[Path, list[str]], bool]
    inputs: Callable[..., list[str]]
    read: Callable[..., Any]


def reader(name: str) -> Reader:
    """The module of a format. They are imported when asked for, since `data.data_yaml` needs their names only."""
    return import_module(f"{__name__}.{name}")  # type: ignore[return-value]


def guess(entry: Path, images: list[str]) -> str:
    """The format of a split, from its first file or folder and the first of its images."""
    return next(name for name in READERS if reader(name).recognises(entry, images))
