"""What was found in one image, with the image and the names of the classes.

Legend: N detections, H, W pixels of the image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.inference.sources import Frame
from utils.class_names import count_classes
from utils.errors import UserError, nearest, shown
from utils.reporting.draw import WRITABLE_SUFFIXES, Style, draw_detections
from utils.reporting.picture_file import write_picture
from utils.structures import Detections

if TYPE_CHECKING:
    import pandas
    import supervision


@dataclass(frozen=True)
class Detection:
    """One detection. name: of its class, whose number is `label`; box: x1, y1, x2, y2 in pixels; id: of the object that
    a tracker follows, None without one and for a new one."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int
    id: int | None = None


@dataclass(repr=False)
class ImageDetections(Detections):
    """The detections in one image or frame of a video: boxes (N, 4) xyxy in its pixels, scores (N,), labels (N,).

    frame: the image and where it comes from; names: of the classes; ids: (N,) int64, of the objects that a tracker
    follows, -1 for new ones, None without one; seen: what the image was looked at as, in words; seconds: that it took.

    `len(found)`; `for detection in found` and `found[0]` give each `Detection`, the highest score first; `found[:5]`,
    `found["person"]`, `found[found.scores > 0.5]` give those of them as `ImageDetections`.
    """

    frame: Frame
    names: Sequence[str]
    ids: Tensor | None = None
    seen: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, found: Detections, frame: Frame, names: Sequence[str]) -> "ImageDetections":
        """Detections that were found in a frame."""
        return cls(found.boxes, found.scores, found.labels, frame, names)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        return self.frame.image

    @property
    def path(self) -> str:
        return self.frame.path

    def __iter__(self) -> Iterator[Detection]:
        ids = [None] * len(self) if self.ids is None else [k if k > 0 else None for k in self.ids.tolist()]
        for box, score, label, number in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), ids,
                                             strict=True):
            yield Detection(self.names[label], score, tuple(box), label, number)

    def __getitem__(self, key: Any) -> "Detection | ImageDetections":
        """One detection by its place, or those of a slice, of a mask (N,), of a list of places or of a class name.
        Raises `IndexError` for a place beyond the last, `UserError` for anything else that cannot be."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            if not -len(self) <= key < len(self):
                raise IndexError(f"detection {key} of {len(self)}")
            place = int(key) % len(self)
            return next(iter(self._part(torch.tensor([place]))))
        if isinstance(key, str):
            names = list(self.names)
            if key not in names:
                raise UserError(f"{key!r} is no class of this model; {nearest(key, names) or ', '.join(names[:10])}",
                                "unknown-class")
            return self._part(self.labels == names.index(key))
        if isinstance(key, slice):
            return self._part(torch.tensor(range(len(self))[key], dtype=torch.int64), key)
        places = torch.as_tensor(key) if isinstance(key, Tensor | np.ndarray | list) else None
        return self._part(places.long() if places is not None and not len(places) else places, key)

    def _part(self, places: Tensor | None, key: Any = None) -> "ImageDetections":
        """The detections of a mask (N,) or of rising places (K,)."""
        fits = places is not None and places.ndim == 1
        if fits and places.dtype == torch.bool:
            fits = len(places) == len(self)
        elif fits:
            fits = not places.is_floating_point() and bool((places[1:] > places[:-1]).all()) and (
                not len(places) or int(places[0]) >= 0 and int(places[-1]) < len(self))
        if not fits:
            what = " ".join(shown(key, 60).split())
            raise UserError(f"{what}: chooses no part of {len(self)} detections; give a place, a slice, a class name, "
                            f"a mask of {len(self)}, or places in rising order", "bad-index")
        chosen = places.to(self.labels.device)
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen],
                       ids=None if self.ids is None else self.ids[chosen])

    def __repr__(self) -> str:
        counts = count_classes(self.labels.tolist(), self.names) or "nothing"
        height, width = self.image.shape[:2]
        return f"<{len(self)} detection{'s' * (len(self) != 1)} in {self.frame}, {width}x{height}: {counts}>"

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file: image_id, category_id (the number of the class, from 0), bbox (left, top, width,
        height in pixels), score.

        image_id: by default the file name without suffix, as a number if it is one, as in COCO.
        """
        stem = self.frame.stem
        number = (int(stem) if stem.isdecimal() else stem) if image_id is None else image_id
        return [{"image_id": number, "category_id": label,
                 "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)], "score": round(score, 5)}
                for (x1, y1, x2, y2), label, score in
                zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True)]

    def to_supervision(self) -> "supervision.Detections":
        """For Roboflow's supervision: its annotators, trackers, zones. Class names are in `data["class_name"]`."""
        return _optional("supervision", "to_supervision").Detections(
            xyxy=self.boxes.numpy().astype(np.float32), confidence=self.scores.numpy().astype(np.float32),
            class_id=self.labels.numpy(), tracker_id=None if self.ids is None else self.ids.numpy(),
            data={"class_name": np.array([self.names[label] for label in self.labels.tolist()], dtype=str)})

    def to_pandas(self) -> "pandas.DataFrame":
        """A row for each detection: xmin, ymin, xmax, ymax, confidence, class, name as in YOLOv5, and id where objects
        are tracked."""
        corners = {name: self.boxes[:, k].numpy() for k, name in enumerate(("xmin", "ymin", "xmax", "ymax"))}
        tracks = {} if self.ids is None else {"id": self.ids.numpy()}
        columns = {**corners, "confidence": self.scores.numpy(), "class": self.labels.numpy(),
                   "name": [self.names[label] for label in self.labels.tolist()], **tracks}
        return _optional("pandas", "to_pandas").DataFrame(columns)

    def plot(self, style: Style | None = None) -> np.ndarray:
        """(H, W, 3) uint8 BGR: a copy of the image with the detections drawn in."""
        return draw_detections(self.image, self, self.names, style or Style(), self.ids)

    def save(self, path: str | Path, style: Style | None = None) -> Path:
        """Write what `plot` gives: into this file, or into a folder under the image's name. Returns the file.

        A picture that its format cannot hold becomes a PNG. Raises `UserError` for a suffix that is no picture's.
        """
        path = Path(path)
        if path.is_dir() or not path.suffix:
            number = "" if self.frame.is_still else f"_{self.frame.index}"
            own = Path(self.path).suffix.lower()
            path = path / f"{self.frame.stem}{number}{own if own in WRITABLE_SUFFIXES else '.jpg'}"
        if path.suffix.lower() not in WRITABLE_SUFFIXES:
            raise UserError(f"{path}: no picture is written as {path.suffix}; use one of "
                            f"{', '.join(sorted(WRITABLE_SUFFIXES))}", "unknown-format")
        return write_picture(path, self.plot(style))

    def crops(self) -> list[np.ndarray]:
        """Each detection cut out of the image, (h, w, 3) uint8 BGR; at least a pixel of each."""
        height, width = self.image.shape[:2]
        parts = []
        for x1, y1, x2, y2 in self.boxes.tolist():
            left, top = min(math.floor(x1), width - 1), min(math.floor(y1), height - 1)
            right, bottom = max(math.ceil(x2), left + 1), max(math.ceil(y2), top + 1)
            parts.append(self.image[top:bottom, left:right])
        return parts


def _optional(package: str, method: str) -> ModuleType:
    """A package that only this method needs."""
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f'{method}: needs {package}; pip install "assn[results]"', "missing-package") from None
