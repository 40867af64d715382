"""Colours can be told apart, and text on them can be read."""

from itertools import combinations

import numpy as np

from utils.reporting.palette import ALARM, CROWD, FOUND, HIT, MISSED, PALETTE, contrast, ink_on, of_hex


def oklab(colour: tuple[int, int, int]) -> np.ndarray:
    """OKLab (Ottosson 2020) of a BGR colour."""
    c = np.array(colour[::-1]) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]) @ c)
    return np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]) @ lms


def apart(colours) -> float:
    return min(np.linalg.norm((oklab(a) - oklab(b)) * (0.7, 1, 1)) for a, b in combinations(colours, 2))


def test_classes_differ_and_the_first_ones_most():
    assert len(set(PALETTE)) == 20
    assert apart(PALETTE) > 0.115 and apart(PALETTE[:8]) > 0.15


def test_outcomes_differ():
    assert apart((HIT, FOUND, MISSED, ALARM, CROWD)) > 0.1


def test_text_has_contrast():
    assert all(contrast(colour, ink_on(colour)) >= 4.5 for colour in (*PALETTE, HIT, FOUND, MISSED, ALARM, CROWD))
    assert contrast((0, 0, 0), (255, 255, 255)) == 21
    assert ink_on((255, 255, 255)) == (0, 0, 0) and ink_on(of_hex("#000080")) == (255, 255, 255)
