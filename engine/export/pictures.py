"""The images on which an exported file is compared with PyTorch: those of `--data`, or built-in scenes.

Legend: B images in a batch, H, W pixels of the input frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from data import Index, load_index
from data.formats.paths import IMAGE_SUFFIXES
from data.images.decode import decode, read_bytes
from data.shapes.generate import Scene, render
from engine.inference.runtimes.base import Runtime, as_unit
from utils.errors import UserError

SCENES = 2


@dataclass(frozen=True)
class Input:
    """images (B, 3, H, W) float RGB in [0, 1] of a kind: "random", or "pictures" with the name of the file."""

    kind: str
    images: Tensor
    name: str = ""


@dataclass
class Pictures:
    """Images (H, W, 3) uint8 BGR with their names, decoded when they are asked for.

    index: the labelled images among them, on which AP is measured, None where there are no labels; training: images to
    calibrate on, those of `names` where there are no others; skipped: what could not be read, and why.
    """

    names: list[str]
    read: Callable[[str], np.ndarray]
    index: Index | None = None
    training: "Pictures | None" = None
    is_real: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in self.names:
            try:
                yield name, self.read(name)
            except (OSError, ValueError) as error:
                self.skipped[name] = getattr(error, "strerror", None) or str(error)

    def __len__(self) -> int:
        return len(self.names)


def built_in(size: tuple[int, int], count: int = SCENES) -> Pictures:
    """Scenes of the built-in shapes, of (height, width) pixels."""
    scenes = {f"built-in scene {number}": number for number in range(count)}
    return Pictures([*scenes], lambda name: render(0, "val", scenes[name], size, Scene())[0])


def open_pictures(data: str, most: int) -> Pictures:
    """At most `most` images of a folder, or of the val split of a data set, evenly spaced; to calibrate on, as many of
    its train split, where it has one. Raises `UserError` where there are none."""
    folder = Path(data)
    if not folder.is_dir():
        index = load_index(data, "val")
        return Pictures(_paths(index, most), _decode, index.subset(_spread(len(index), most)), _training(data, most),
                        is_real=True)
    paths = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"--data {data}: no image in this folder; name one with images, or the YAML of a data set",
                        "no-images")
    return Pictures([paths[k] for k in _spread(len(paths), most)], _decode, is_real=True)


def _training(data: str, most: int) -> Pictures | None:
    try:
        return Pictures(_paths(load_index(data, "train"), most), _decode, is_real=True)
    except UserError:  # no such split, or none that can be read: the images that are compared serve both
        return None


def _paths(index: Index, most: int) -> list[str]:
    return [index.records[k].path for k in _spread(len(index), most)]


def _spread(count: int, most: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _decode(path: str) -> np.ndarray:
    return decode(read_bytes(path))


def inputs_of(pictures: Pictures, exported: Runtime, batch: int, size: tuple[int, int]) -> Iterator[Input]:
    """What an exported file is compared on: noise and the built-in scenes at `batch` and `size` (height, width), and at
    another batch and size where these are free; and real pictures, each placed as the file wants it."""
    shapes = [(batch, *size)]
    if exported.fixed_size is None:
        step = exported.frame.multiple
        shapes.append((batch + 1, size[0] + step, max(size[1] - step, 2 * step)))
    generator = torch.Generator().manual_seed(0)
    for count, *sides in shapes:
        yield Input("random", torch.rand(count, 3, *sides, generator=generator))
        if not pictures.is_real:
            images = torch.cat([interpolate(_unit(image), sides, mode="bilinear", antialias=True)
                                for _, image in pictures])
            yield Input("pictures", images[torch.arange(count) % len(images)])
    if pictures.is_real:
        wanted = exported.choose_size(size)
        for name, image in pictures:
            yield Input("pictures", as_unit(exported.prepare(image, wanted)[0]), name)


def _unit(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 BGR -> (1, 3, H, W) float RGB in [0, 1]."""
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())[None].float() / 255
