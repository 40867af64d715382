"""What a model asks of its input: the frame that images are placed in, and the values of its pixels.

Both are plain data in a model file (`frame:`, `pixels:`), in checkpoints and in exported files. The defaults are those
of YOLO: letterboxed frames of any multiple of the stride, RGB in [0, 1].

Legend: B images, H, W pixels of the frame.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
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
LONGEST = 65_536  # pixels of a side
NAMED = TypeVar("NAMED", bound="Frame | Pixels")


@dataclass(frozen=True)
class Frame:
    """How an image of any size becomes the frame that a model reads.

    fit: "letterbox", the largest that keeps its aspect, padded; "stretch", the whole frame, whatever its aspect;
    "shortest", shorter side `short` unless the longer one then exceeds `long`, padded to the batch's largest. size:
    (height, width) where the model takes no other. multiple: of which height and width of other frames are multiples.
    pad: on which sides padding lies, "centre" for both, "corner" for right and bottom; fill: its colour, RGB in
    [0, 255]. shrink: how an image shrinks in evaluation, "area" for the mean of the covered pixels, or "linear".
    """

    fit: str = "letterbox"
    size: tuple[int, int] | None = None
    multiple: int = 32
    short: int = 800
    long: int = 1333
    pad: str = "centre"
    fill: tuple[int, int, int] = (GREY, GREY, GREY)
    shrink: str = "area"

    def __post_init__(self) -> None:
        _check_choice("fit", self.fit, FITS)
        _check_choice("pad", self.pad, PADS)
        _check_choice("shrink", self.shrink, SHRINKS)
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
