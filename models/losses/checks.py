"""What every head loss asks of its arguments before it computes anything."""

from collections.abc import Sequence

from models.boxes.similarity import KINDS
from models.registry import choose


def check_maps(shapes: Sequence[Sequence[int]], strides: Sequence[int], image_size: tuple[int, int], kind: str) -> None:
    """shapes: those of maps that end in (h, w), one per level. Raises `ValueError` where a map is not the image divided
    by its stride, `UserError` where there is no similarity of that kind."""
    choose("box loss", kind, KINDS)
    if len(shapes) != len(strides):
        raise ValueError(f"{len(shapes)} maps for {len(strides)} strides")
    for (*_, height, width), stride in zip(shapes, strides, strict=True):
        expected = tuple(-(-side // stride) for side in image_size)
        if (height, width) != expected:
            raise ValueError(f"stride {stride}: a {image_size} image gives a {expected} map, not {(height, width)}")
