"""Sizes of objects at the training size."""

import numpy as np

from data.labels.records import Record, RecordTable
from data.object_sizes import object_sizes


def record(height, width, boxes, ignore=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Record("a.jpg", 1, height, width, boxes, np.zeros(len(boxes), np.int64),
                  None if ignore is None else np.array(ignore))


def test_sizes_follow_the_longest_side_and_leave_out_crowds_and_specks():
    records = [record(480, 640, [(0, 0, 100, 50), (10, 10, 74, 20)]), record(100, 100, []),
               record(1280, 320, [(0, 0, 100, 40), (0, 0, 3, 100), (0, 0, 300, 300)], [False, False, True])]
    expected = [[100, 50], [64, 10], [50, 20]]
    for form in (records, RecordTable.from_records(records)):
        np.testing.assert_allclose(object_sizes(form, 640), expected)
    np.testing.assert_allclose(object_sizes(records, 1280), [[200, 100], [128, 20], [100, 40], [3, 100]])


def test_no_images_no_sizes():
    assert object_sizes([], 640).shape == (0, 2)
