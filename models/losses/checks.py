"""Checks of the arguments of every head loss."""

from collections.abc import Sequence


def check_maps(shapes: Sequence[tuple[int, int]], strides: Sequence[int], image_size: tuple[int, int]) -> None:
    """shapes: (h, w) of each level's map. Raises `ValueError` where a map is not the image divided by its stride."""
    if len(shapes) != len(strides):
        raise ValueError(f"{len(shapes)} maps for {len(strides)} strides")
    for shape, stride in zip(shapes, strides, strict=True):
        expected = tuple(-(-side // stride) for side in image_size)
        if tuple(shape) != expected:
            raise ValueError(f"stride {stride}: a {image_size} image gives a {expected} map, not {tuple(shape)}")
