"""Hints at `--slice` where a model would see objects much smaller than in its training."""

from typing import Any

from engine.inference.metadata import is_count
from engine.inference.runtimes.base import Runtime

SHRINKS = 2.5  # times from which on small objects are lost
MORE = 1.5  # times as much as in the training


def trained_tile(runtime: Runtime) -> int | None:
    """The side of the windows that a model was trained on with `--tile`, in pixels; None for whole images."""
    tile = runtime.trained.get("tile")
    return tile if is_count(tile) else None


def tile_hint(runtime: Runtime, longest: int) -> str:
    """What is said of whole images, the largest of `longest` pixels, to a model trained on windows; '' for others."""
    tile = trained_tile(runtime)
    return (f"hint: {runtime.path} was trained on windows of {tile} pixels (--tile), and images here have up to "
            f"{longest}; --slice {tile} looks at them as it was trained") if tile and longest > tile else ""


class SliceHint:
    """Says once, of the first image for which it is so, that `--slice` would show more of it.

    size: (height, width) of the frame that images are placed in.
    """

    def __init__(self, runtime: Runtime, size: tuple[int, int], sliced: bool) -> None:
        self.runtime, self.size, self._silent = runtime, size, sliced

    def __call__(self, height: int, width: int) -> list[str]:
        """A line, or none, of an image of so many pixels."""
        if self._silent:
            return []
        text = tile_hint(self.runtime, max(height, width)) or self._shrinks(height, width)
        self._silent = bool(text)
        return [text] if text else []

    def _shrinks(self, height: int, width: int) -> str:
        here, trained = max(height, width), self.runtime.trained
        factor = here / max(self.size)
        usual, side = _count(trained.get("image")), _count((trained.get("imgsz") or [None])[0])
        if factor <= SHRINKS or (usual and side and factor <= MORE * usual / side):
            return ""
        window = max(32, round((usual if usual and usual < here else max(self.size)) / 32) * 32)
        return (f"hint: {width} x {height} pixels shrink {factor:.1f} times to {max(self.size)}, too small for small "
                f"objects; --slice {window} looks at windows at full resolution")


def _count(value: Any) -> int:
    return value if is_count(value) else 0
