"""The letterbox of YOLOv7, case by case."""

import numpy as np
import pytest

from data.images.letterbox import letterbox


def _picture(pattern: str, h: int, w: int) -> np.ndarray:
    y, x, c = np.ogrid[:h, :w, :3]
    if pattern == "wrap":
        return ((3 * y + 5 * x + 40 * c) % 256).astype(np.uint8)
    value = y / (h - 1) * (0.2 + 0.2 * c) + x / (w - 1) * (0.6 - 0.2 * c) + 0.1 * c
    return np.clip(np.round(255 * value), 0, 255).astype(np.uint8)


def _ours(args: dict) -> dict:
    names = {"new_shape": "size", "scaleFill": "stretch"}
    ours = {names.get(k, k): v for k, v in args.items()}
    return ours | {"size": ours["size"] if isinstance(ours["size"], int) else tuple(ours["size"])}


@pytest.mark.parametrize("case", range(60))
def test_shape_ratio_padding_and_pixels(golden, case):
    meta, arrays = golden("letterbox")
    assert len(meta["cases"]) == 60
    want = meta["cases"][case]
    image, transform = letterbox(_picture(want["pattern"], want["h"], want["w"]), **_ours(want["args"]))
    assert list(image.shape) == want["out_shape"] and list(transform.input) == want["out_shape"][:2]

    # The original tells the ratio it aimed at; ours is what rounding to whole pixels made of it, as the inverse needs.
    for axis, (side, outer) in enumerate(((want["w"], image.shape[1]), (want["h"], image.shape[0]))):
        inner = round(side * want["ratio_wh"][axis])
        assert transform.scale[axis] == inner / side
        assert (outer - inner) / 2 == want["pad_dw_dh"][axis]
        assert transform.pad[axis] == round(want["pad_dw_dh"][axis] - 0.1)

    sample = image[5::23, 3::29].astype(int)
    assert np.abs(sample - arrays[f"sample_{case}"]).max() <= 1
