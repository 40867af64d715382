"""What a model asks of its input: the frame that images are placed in, and the values of its pixels.

Both are plain data in a model file (`frame:`, `pixels:`), in checkpoints and in exported files. The defaults are those
of YOLO: letterboxed frames of any multiple of the stride, RGB in [0, 1].

Legend: B images, H, W pixels of the frame.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from utils.config import is_number, is_whole
from utils.errors import UserError, nearest, shown

FITS = ("letterbox", "stretch", "shortest")
PADS = ("centre", "corner")
SHRINKS = ("area", "linear")
ORDERS = ("rgb", "bgr")
GREY = 114  # the padding of every YOLO code base
SIDE = 640  # pixels of a frame where neither a flag nor a training names any
LONGEST = 65_536  # pixels of a side
NAMED = TypeVar("NAMED", bound="Frame | Pixels")


@dataclass(frozen=True)
class Frame:
    """How an image of any size becomes the frame that a model reads.

    fit: "letterbox", the largest that keeps its aspect, padded; "stretch", the whole frame, whatever its aspect;
    "shortest", shorter side `short` unless the longer one then exceeds `long`, padded to the batch's largest. size:
    (height, width) where the model takes no other. multiple: of which height and width of other frames are multiples.
    pad: on which sides padding lies, "centre" for both, "corner" for right and bottom; fill: its colour, RGB in
    [0, 255], which the network sees as `Pixels` makes it (zeros after ImageNet's mean come from [124, 116, 104]).
    shrink: how an image shrinks in evaluation, "area" for the mean of the covered pixels, or "linear". eval_rect:
    whether images of like aspect are evaluated together in frames with little padding, where the size is free, as
    YOLOv5, v7 and v8 evaluate theirs.
    """

    fit: str = "letterbox"
    size: tuple[int, int] | None = None
    multiple: int = 32
    short: int = 800
    long: int = 1333
    pad: str = "centre"
    fill: tuple[int, int, int] = (GREY, GREY, GREY)
    shrink: str = "area"
    eval_rect: bool = True

    def __post_init__(self) -> None:
        _check_choice("fit", self.fit, FITS)
        _check_choice("pad", self.pad, PADS)
        _check_choice("shrink", self.shrink, SHRINKS)
        _check(isinstance(self.eval_rect, bool), "eval_rect", self.eval_rect, "true or false")
        for name in ("multiple", "short", "long"):
            _check(_is_side(getattr(self, name)), name, getattr(self, name), "a whole number of pixels")
        _check(self.size is None or _is_tuple(self.size, 2, _is_side), "size", self.size, "[height, width] in pixels")
        _check(_is_tuple(self.fill, 3, lambda v: is_whole(v, 0, 255)), "fill", self.fill,
               "[red, green, blue], whole numbers from 0 to 255")
        _check(self.short <= self.long, "short", self.short, f"at most `long`, {self.long}")
        _check(self.fit != "stretch" or self.size is not None, "size", self.size,
               "[height, width] where images are stretched")

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any] | None, source: str, multiple: int = 32) -> "Frame":
        """The frame of a model file's key `frame`; multiple: where it names none and the size is free.

        Raises `UserError` that begins with `source` for a key or a value that there is not.
        """
        return _made(cls, {"multiple": 1 if (content or {}).get("size") else multiple, **(content or {})},
                     f"{source}: frame")

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `from_mapping` makes the same again."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def resolve(self, sides: int | Sequence[int] | None = None) -> tuple[int, int]:
        """The two numbers by which images are placed: the (height, width) of a frame, or the (shorter, longer) side of
        an image where the fit is "shortest".

        sides: one number, or both; None: what the model starts with. One number is the side of a square frame, or the
        shorter side, to which the longer one keeps its ratio. A fixed size stays as it is.
        """
        if self.size is not None:
            return self.size
        if sides is None:
            return (self.short, self.long) if self.fit == "shortest" else (SIDE, SIDE)
        both = (sides,) if isinstance(sides, int) else tuple(sides)
        if self.fit == "shortest" and len(both) == 1:
            return both[0], max(round(both[0] * self.long / self.short), both[0])
        return both[0], both[-1]

    def round(self, sides: Sequence[int] | None, name: str = "this model") -> tuple[int, int]:
        """`resolve` of the one or two numbers of `--imgsz`, those of a frame rounded up to multiples, which is printed.

        Raises `UserError` for another size than the fixed one, and for a longer side below the shorter.
        """
        if sides is None:
            return self.resolve()
        if self.size is not None and (sides[0], sides[-1]) != self.size:
            raise UserError(f"--imgsz {_joined(sides)}: {name} takes images of {self.size[0]} x {self.size[1]} pixels "
                            f"alone; give {_joined(self.size)}, or drop the flag", code="fixed-size")
        size = self.resolve(sides)
        if self.fit == "shortest":
            _check(size[0] <= size[1], f"--imgsz {_joined(sides)}: the shorter side", size[0],
                   f"given first, at most the longer, {size[1]}")
            return size
        whole = self.up(size)
        if whole != size:
            print(f"--imgsz {_joined(size)}: rounded up to {_joined(whole)}, multiples of the stride {self.multiple}")
        return whole

    def round_each(self, sides: Sequence[int], name: str = "this model") -> tuple[int, ...]:
        """`round` of the numbers of a training: one, or one for training and one for validation; of a fixed size that
        is not square, both of its sides. Each is what `resolve` takes."""
        if self.size is not None and tuple(sides) != self.size:
            for side in sides:
                self.round([side], name)
        if self.size is not None:
            return self.size if self.size[0] != self.size[1] else self.size[:1]
        return tuple(sides) if self.fit == "shortest" else self.round(sides, name)[:len(sides)]

    def up(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) rounded up to multiples, except the fixed size; of "shortest" the frame of the longest images
        in landscape form."""
        height, width = size if size == self.size else (math.ceil(s / self.multiple) * self.multiple for s in size)
        return height, width

    def held_to(self, size: tuple[int, int] | None) -> "Frame":
        """As an exported file of one size takes it: images that would get frames of their own are fitted into it."""
        if size is None or self.size is not None:
            return self
        return replace(self, fit="letterbox", size=tuple(size))

    def evaluates_rect(self, size: tuple[int, int]) -> bool:
        """Whether an evaluation at this (height, width) takes rectangular frames where no flag says: as `eval_rect` has
        it, where one longest side is given for letterboxed images of free size."""
        return self.eval_rect and self.fit == "letterbox" and self.size is None and size[0] == size[1]

    @property
    def fits_images(self) -> bool:
        """Whether frames take their form from the images in them, so that those of a batch should be of like aspect."""
        return self.fit == "shortest"


@dataclass(frozen=True)
class Pixels:
    """The values that a network reads: (x * scale - mean) / std for x in [0, 1], per channel in the given order."""

    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: str = "rgb"

    def __post_init__(self) -> None:
        _check_choice("order", self.order, ORDERS)
        _check(is_number(self.scale, 1e-6, 1e6), "scale", self.scale, "a positive number such as 1 or 255")
        _check(_is_tuple(self.mean, 3, lambda v: is_number(v, -1e6, 1e6)), "mean", self.mean, "three numbers")
        _check(_is_tuple(self.std, 3, lambda v: is_number(v, 1e-6, 1e6)), "std", self.std, "three positive numbers")

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any] | None, source: str) -> "Pixels":
        """The values of a model file's key `pixels`. Raises `UserError` that begins with `source` for a key or a value
        that there is not."""
        return _made(cls, content or {}, f"{source}: pixels")

    def to_dict(self) -> dict[str, Any]:
        """Plain data from which `from_mapping` makes the same again."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def is_plain(self) -> bool:
        """Whether a network reads RGB in [0, 1]."""
        return self == Pixels()

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Factor and shift (3, 1, 1) float32, per channel in `order`: the network reads x * factor - shift."""
        std = torch.tensor(self.std, dtype=torch.float64)[:, None, None]
        mean = torch.tensor(self.mean, dtype=torch.float64)[:, None, None]
        return (self.scale / std).to(device, torch.float32), (mean / std).to(device, torch.float32)


def _made(kind: type[NAMED], content: Mapping[str, Any], where: str) -> NAMED:
    """One of these dataclasses of a mapping with lists for tuples; errors begin with `where`."""
    known = [f.name for f in fields(kind)]
    wrong = next((name for name in content if name not in known), None)
    if wrong is not None:
        hint = nearest(str(wrong), known) or f"known: {', '.join(known)}"
        raise UserError(f"{where}: unknown key {shown(wrong)}; {hint}", code="unknown-key")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})
    except UserError as error:
        raise UserError(f"{where}: {error}", code=error.code) from None


def _joined(sides: Sequence[int]) -> str:
    return " ".join(map(str, sides))


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} {shown(value)} is not one of {', '.join(known)}", code="unknown-name")


def _check(fits: bool, name: str, value: Any, expected: str) -> None:
    if not fits:
        raise UserError(f"{name} must be {expected}, not {shown(list(value) if isinstance(value, tuple) else value)}",
                        code="bad-value")


def _is_tuple(value: Any, count: int, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(map(check, value))


def _is_side(value: Any) -> bool:
    return is_whole(value, 1, LONGEST)
