"""A picture is written in its format, or in one that can hold it."""

import cv2
import numpy as np
import pytest

from utils.reporting.picture_file import write_picture


@pytest.mark.parametrize(("suffix", "size"), [(".jpg", (1, 65535)), (".webp", (20000, 1)), (".jpg", (3, 4000))])
def test_a_picture_that_its_format_cannot_hold_becomes_a_png(tmp_path, suffix, size):
    image = np.full((*size, 3), 7, np.uint8)
    written = write_picture(tmp_path / f"a.b{suffix}", image)
    fits = size == (3, 4000)
    path = tmp_path / (f"a.b{suffix}" if fits else "a.b.png")
    assert written == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert cv2.imread(str(path)).shape == image.shape
