"""Boxes of a COCO file that are missing or in other units."""

import pytest

from tests.data.coco_files import images_of, load, row, write
from tests.refusals import refused


def test_a_box_that_is_missing_is_that_of_the_outline(tmp_path):
    drawn = [[10, 10, 30, 10, 30, 50], [5, 20, 8, 20, 8, 22]]
    rows = [{**row(k, 1, [0, 0, 1, 1], segmentation=drawn, area=400), "bbox": box} for k, box in ((1, None), (2, []))]
    index = load(write(tmp_path, images_of([1]), [{k: v for k, v in rows[0].items() if k != "bbox"}, rows[1]]))
    assert index.records[0].boxes.tolist() == [[5, 10, 30, 50]] and index.report.count("duplicate") == 1
    assert "2 annotations without `bbox`" in index.report.format()


@pytest.mark.parametrize(("boxes", "said"), [
    ([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]], "they are fractions of the image"),
    ([[20, 20, 60, 60], [10, 40, 50, 90]], "their areas are those of corners"),
    ([[60, 60, 90, 90], [70, 50, 120, 99], [80, 80, 100, 127], [2, 2, 7, 9]], "would reach out of their image"),
])
def test_boxes_in_other_units_are_refused_with_the_cure(tmp_path, boxes, said):
    rows = [row(k, 1, box, area=(box[2] - box[0]) * (box[3] - box[1])) for k, box in enumerate(boxes, 1)]
    if "reach" in said:
        rows = [{k: v for k, v in r.items() if k != "area"} for r in rows]
    with refused("wrong-units", said):
        load(write(tmp_path, images_of([1]), rows))
