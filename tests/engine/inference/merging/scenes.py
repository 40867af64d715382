"""Boxes to merge: crowds of near copies, all sizes, classes; and hypothesis's, with ties and boxes without area."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst


def crowd(n: int, seed: int = 0, classes: int = 3, extent: float = 400.0, per_object: int = 6):
    """boxes (n, 4) xyxy, scores, labels: some `per_object` boxes around each of n / per_object objects of 4 to 120
    px."""
    rng = np.random.default_rng(seed)
    objects = max(n // per_object, 1)
    centre, side = rng.random((objects, 2)) * extent, np.exp(rng.uniform(np.log(4), np.log(120), (objects, 2)))
    which = rng.integers(0, objects, n)
    middle = centre[which] + rng.normal(0, 0.15, (n, 2)) * side[which]
    size = side[which] * np.exp(rng.normal(0, 0.2, (n, 2)))
    return np.concatenate((middle - size / 2, middle + size / 2), 1), rng.random(n), rng.integers(0, classes, n)


@st.composite
def anything(draw):
    """Up to 25 boxes on a coarse grid: many touch, are equal, lie in each other, or have no area; scores tie."""
    n = draw(st.integers(0, 25))
    corners = draw(npst.arrays(np.float64, (n, 2), elements=st.integers(-6, 12)))
    sides = draw(npst.arrays(np.float64, (n, 2), elements=st.sampled_from([0, 1, 2, 3, 5, 8, 40])))
    scores = draw(npst.arrays(np.float64, n, elements=st.sampled_from([0.1, 0.3, 0.5, 0.9])))
    labels = draw(npst.arrays(np.int64, n, elements=st.integers(0, 2)))
    return np.concatenate((corners, corners + sides), 1), scores, labels


THRESHOLDS = st.sampled_from([0.1, 0.3, 0.5, 0.55, 0.9, 1.0])
