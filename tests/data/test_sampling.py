"""How often images are seen: the weights of small objects, rare classes and images that are not learned yet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.labels.records import Record, RecordTable
from data.sampling import describe, image_weights, oversample_small, repeat_rare
from tests.refusals import refused

SMALL, LARGE = 31.0, 32.0  # sides


def records(*images):
    """Images as lists of (class, side) or (class, side, ignore)."""
    found = []
    for i, rows in enumerate(images):
        boxes = np.array([[0, 0, side, side] for _, side, *_ in rows], np.float32).reshape(-1, 4)
        found.append(Record(f"{i}.jpg", i, 99, 99, boxes, np.array([r[0] for r in rows], np.int64),
                            np.array([len(r) > 2 and r[2] for r in rows], bool)))
    return found


def test_small_objects_weigh_up_to_the_factor():
    table = records([(0, SMALL)] * 4, [(0, SMALL), (1, LARGE)], [(0, LARGE)], [], [(0, LARGE), (0, SMALL, True)])
    assert oversample_small(table).tolist() == [3, 2, 1, 1, 1]
    assert oversample_small(RecordTable.from_records(table), 2).tolist() == [2, 1.5, 1, 1, 1]
    assert "the 1 without objects weigh 1" in describe("--oversample-small", table, oversample_small(table))
    with refused("bad-value", r"--oversample-small 0\.5"):
        oversample_small(table, 0.5)


def test_rare_classes_by_the_formula_of_lvis():
    common = [[(0, LARGE)] * 3] * 90
    weights = repeat_rare(records(*common, [(0, LARGE), (1, LARGE), (1, LARGE)], *[[]] * 9), 3, 0.04)
    assert weights == pytest.approx([1] * 90 + [2] + [1] * 9)  # class 1 is in 1 of 100 images: sqrt(.04 / .01)
    crowd = repeat_rare(records([(0, LARGE)], [(0, LARGE), (1, LARGE, True)]), 2, 1)
    assert crowd.tolist() == [1, 1]  # a crowd of a rare class is no object to learn from
    with refused("bad-value", "--rare-classes 0"):
        repeat_rare(records([]), 1, 0)


def test_image_weights_follow_ap_and_count():
    table = records([(0, LARGE)] * 2, [(1, LARGE)], [], [(0, LARGE), (1, LARGE)])
    weights = image_weights(table, 2, [0.5, 0.0])  # per label: .25 / 3 and 1 / 2
    raw = np.array([2 * 0.25 / 3, 0.5, 0, 0.25 / 3 + 0.5])
    assert weights[[0, 1, 3]] == pytest.approx(raw[[0, 1, 3]] / raw[[0, 1, 3]].mean()) and weights[2] == 1
    assert image_weights(table, 2, [1, 1]).tolist() == [1] * 4
    assert image_weights(table, 2, [0.5, float("nan")]) == pytest.approx(image_weights(table, 2, [0.5, 0.5]))
    assert image_weights(table, 2, [-1, -1]) == pytest.approx(image_weights(table, 2, [0, 0]))
    with pytest.raises(ValueError, match="2 classes"):
        image_weights(table, 2, [0.5])


@given(rows=st.lists(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([SMALL, LARGE]), st.booleans()),
                              max_size=5), min_size=1, max_size=12))
def test_weights_of_any_index_are_usable(rows):
    table = records(*rows)
    for weights in (oversample_small(table), repeat_rare(table, 5, 0.5), image_weights(table, 5, np.linspace(0, 1, 5))):
        assert weights.shape == (len(rows),) and weights.dtype == np.float64
        assert np.isfinite(weights).all() and (weights >= 0).all()
        assert all(w == 1 for w, row in zip(weights, rows, strict=True) if all(ignore for *_, ignore in row))
