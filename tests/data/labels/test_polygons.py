"""Outlines of objects from the files into the index, only where they are asked for."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.formats.raw_labels import join_outlines
from data.index import load_index
from tests.data import makers

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def annotation(number, segmentation, **words):
    return {"id": number, "image_id": 7, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 5 + number,
            "segmentation": segmentation, **words}


def test_coco_outlines(tmp_path):
    parts = [annotation(1, [SQUARE]), annotation(2, [SQUARE, [50, 10, 60, 10, 60, 20]], bbox=[10, 10, 50, 20]),
             annotation(3, {"size": [1, 1], "counts": [1]}, iscrowd=1), annotation(4, [], bbox=[1, 1, 9, 9]),
             annotation(5, [[1, 2, "x", 4, 5, 6]], bbox=[2, 2, 9, 9]), annotation(6, None, bbox=[3, 3, 9, 9]),
             annotation(7, [SQUARE], bbox=[90, 10, 200, 20])]
    index = load_index(makers.coco(tmp_path, parts), "train", cache=False, polygons=True)
    record = index.records[0]
    assert [len(p) for p in record.polygons] == [4, 9, 0, 0, 0, 0, 4] and index.records[1].polygons == []
    assert record.polygons[0].tolist() == [[10, 10], [30, 10], [30, 30], [10, 30]]
    assert record.polygons[0].dtype == np.float32
    assert any("3 of 6 boxes have a polygon" in note for note in index.report.notes)


def test_yolo_outlines_are_in_pixels_and_stay_with_their_rows(tmp_path):
    rows = "5 .1 .1 .2 .2 .3 .1\n0 .5 .5 .2 .2\n1 .1 .1 .2 .3 .3 .1\n1,.2,.2,.1,.1\nnone\n"
    yaml = makers.yolo(tmp_path, {"a.jpg": rows, "b.jpg": "0 .1 .1 .5 .1 .5 .5 .1 .5"})
    index = load_index(yaml, "train", cache=False, polygons=True)  # the first row is of no class
    a, b = index.records
    assert a.labels.tolist() == [0, 1, 1] and [len(p) for p in a.polygons] == [0, 3, 0]
    np.testing.assert_allclose(a.polygons[1], [[10, 6], [20, 18], [30, 6]], atol=1e-4)
    np.testing.assert_allclose(b.polygons[0], [[10, 6], [50, 6], [50, 30], [10, 30]], atol=1e-4)
    assert load_index(yaml, "train", cache=False).records[0].polygons is None
    voc = load_index(makers.voc(tmp_path / "voc", {"a": makers.xml(makers.xml_object("cat", 1, 1, 9, 9))}), "train",
                     cache=False, polygons=True)
    assert voc.records[0].polygons is None


def test_the_cache_keeps_outlines_apart(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": "0 .1 .1 .5 .1 .5 .5"})
    for polygons in (False, True, False, True):
        record = load_index(yaml, "train", polygons=polygons).records[0]
        assert (record.polygons is not None) == polygons


@given(seed=st.integers(0, 1000), count=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_joined_outlines_enclose_their_parts(seed, count):
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(count):  # in columns of their own, so that they do not overlap
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        parts.append(np.stack((50 + 100 * k + 40 * np.cos(turn), 60 + 50 * np.sin(turn)), 1).astype(np.float32))
    apart, joined = (np.zeros((120, 420), np.uint8) for _ in range(2))
    for part in parts:
        cv2.fillPoly(apart, [np.round(part).astype(np.int32)], 1)
    cv2.fillPoly(joined, [np.round(join_outlines(parts)).astype(np.int32)], 1)
    assert (joined >= apart).all()
    bridges = cv2.erode(joined - apart, np.ones((2, 2)))  # a pixel wide
    assert not bridges.any()
