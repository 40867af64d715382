"""What images and classes are called in predictions.json: as the model has them, or as a data set has them."""

import os
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path

from data import Index, load_index
from data.data_yaml import Source, read_source
from engine.inference.runtimes.base import Runtime
from engine.inference.sources import Frame
from utils.class_names import match_classes
from utils.errors import UserError

SPLITS = ("val", "test", "train")  # in the order in which images are looked for


class ResultIds:
    """The model's own: an image is called after its file, a class by its number, from 0. note: what is said of the
    file at the end, '' for nothing."""

    note = ""

    def __init__(self, names: Sequence[str]) -> None:
        self.category_ids: list[Hashable] = list(range(len(names)))

    def of(self, frame: Frame) -> tuple[str, Hashable, Sequence[Hashable]]:
        """file_name and image_id of a frame, and the category_id of each class.

        image_id: the file name without suffix, as a number if it is one, as in COCO.
        """
        stem = frame.stem
        return frame.path, int(stem) if stem.isdecimal() else stem, self.category_ids


class DatasetIds(ResultIds):
    """Those of a data set, the same as val.py writes; an image that is in none of its splits keeps its own.

    always: what to do when the first image is not of the data set: the classes are called as there (True, the user
    asked for it), or everything as in `ResultIds`. Raises `UserError` for a data set that cannot be read, or has other
    classes.
    """

    def __init__(self, data: str, runtime: Runtime, always: bool) -> None:
        super().__init__(runtime.names)
        self.data, self.runtime, self.always = data, runtime, always
        self._sources = _sources(data)
        self._images: dict[str, tuple[str, Hashable]] = {}  # by path: file_name and image_id
        self._known = self._unknown = 0
        if always:
            self._read(self._sources[0])

    @property
    def note(self) -> str:
        """How many images were found in the data set."""
        if not self._known and not self.always:
            return ""
        lacking = f"; {self._unknown} images are not in it and are called after their files" if self._unknown else ""
        return f"predictions.json has the ids of {self.data}{lacking}"

    def of(self, frame: Frame) -> tuple[str, Hashable, Sequence[Hashable]]:
        """As `ResultIds.of`."""
        place = real_path(frame.path)
        while place not in self._images and (source := self._next(place)):
            self._read(source)
        own = super().of(frame)
        if place not in self._images:
            self._unknown += 1
            return own
        self._known += 1
        return *self._images[place], self.category_ids

    def _next(self, place: str) -> Source | None:
        """The next split that is worth a look."""
        if not self.always and not self._known and self._unknown:
            return None  # the first image was not of it
        for source in self._sources:
            lies_in_it = place.startswith(real_path(str(source.root)) + os.sep)
            drawn = source.format != "shapes" or (Path(source.root) / source.split).is_dir()
            if drawn and (self.always or lies_in_it):
                return source
        return None

    def _read(self, source: Source) -> None:
        self._sources.remove(source)
        index = load_index(self.data, source.split)
        order, note = match_classes(self.runtime.names, index.names, str(self.runtime.path), self.data)
        if note:
            print(note)
        self.category_ids = [index.category_ids[k] for k in (order or range(len(index.names)))]
        for path, name in _images(index).items():
            self._images.setdefault(path, name)


def result_ids(data: str | None, runtime: Runtime) -> ResultIds:
    """The ids of `data`, or else of the data set that the model was trained on, where that is here and its classes are
    the same; images that do not lie in it keep their own."""
    if data:
        return DatasetIds(data, runtime, always=True)
    trained = runtime.trained.get("data")
    try:
        return DatasetIds(trained, runtime, always=False) if isinstance(trained, str) else ResultIds(runtime.names)
    except UserError:  # it is not on this machine
        return ResultIds(runtime.names)


def _sources(data: str) -> list[Source]:
    found, error = [], None
    for split in SPLITS:
        try:
            found.append(read_source(data, split))
        except UserError as problem:
            error = error or problem
    if not found and error:
        raise error
    return found


def _images(index: Index) -> dict[str, tuple[str, Hashable]]:
    """Path -> (file_name, image_id) of the images of a split."""
    truth, folders = index.truth, [real_path(str(folder)) for folder in index.source.image_folders]
    image_ids = dict(zip(truth.record_ids, truth.image_ids, strict=True))
    images = {}
    for record in index.records:
        path = real_path(record.path)
        folder = next((folder for folder in folders if path.startswith(folder + os.sep)), str(Path(path).parent))
        images[path] = os.path.relpath(path, folder), image_ids[record.image_id]
    return images


def real_path(path: str) -> str:
    """A path by which two names of a file are compared; links are followed in its folder."""
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}{os.sep}{name}"


@cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
