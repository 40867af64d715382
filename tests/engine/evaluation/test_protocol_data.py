"""From the published files of VisDrone and TinyPerson to the numbers of their protocols, counted by hand."""

import json

import numpy as np
import pytest

from data.index import load_index
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import PROTOCOLS
from tests.data import makers

# a car, an ignored region, a pedestrian, `others`, a truck of score 0, a van of which
# two fifths lie in the region, and a car inside it
VISDRONE = ("20,10,40,30,1,4,0,0\n60,5,20,20,0,0,0,0\n10,20,8,8,1,1,0,1\n80,40,10,10,1,11,0,0\n0,0,5,5,0,6,0,0\n"
            "72,5,20,10,1,5,0,0\n62,15,8,8,1,4,0,0\n")


def found(rows) -> Found:
    """Of one image: rows left, top, width, height, score, label."""
    table = np.array(rows, float)
    return Found(np.ones(1, bool), np.zeros(len(table), int), table[:, 5].astype(int), table[:, :4], table[:, 4])


def test_visdrone_from_its_files(tmp_path):
    makers.image(tmp_path / "images/a.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.txt").write_text(VISDRONE)
    index = load_index(makers.config(tmp_path, train="images"), "train", cache=False)
    rows = [[20, 10, 40, 30, .9, 3], [62, 6, 10, 10, .8, 3], [81, 41, 8, 8, .7, 0], [0, 0, 5, 5, .6, 5],
            [1, 1, 3, 3, .5, 5], [72, 5, 20, 10, .4, 4], [30, 30, 9, 9, .3, 0]]
    metrics = judge(index.truth, found(rows), index.names, PROTOCOLS["visdrone"])
    labels = {index.names[k]: row.n_labels for k, row in enumerate(metrics.per_class) if row.n_labels}
    assert labels == {"car": 1, "pedestrian": 1, "van": 1}  # the second car lies in the region
    ap = {name: row["AP50"] for name, row in zip(index.names, metrics.per_class, strict=True)}
    assert ap["car"] == 1  # the detection in the region is dropped with the car in it
    assert ap["pedestrian"] == 0 and ap["van"] == 1  # 8 of 20 columns are in the region: less than half
    assert ap["truck"] == 0  # only an object of score 0: what is found on it is neither right nor false
    assert ap["bus"] == -1 and metrics["AP50"] == pytest.approx(2 / 4)
    assert metrics["AR1"] == pytest.approx(1 / 4) and metrics["AR500"] == pytest.approx(2 / 4)


def test_tinyperson_from_its_json(tmp_path):
    makers.image(tmp_path / "images/a.jpg")
    boxes = {1: [10, 10, 6, 6], 2: [30, 10, 10, 10], 3: [50, 5, 40, 40], 4: [10, 30, 9, 9]}
    marks = {3: {"ignore": True}, 4: {"uncertain": True}}
    rows = [{"id": k, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             **marks.get(k, {})} for k, box in boxes.items()]
    (tmp_path / "a.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 100}], "annotations": rows,
        "categories": [{"id": 1, "name": "person"}]}))
    index = load_index(makers.config(tmp_path, train={"images": "images", "annotations": "a.json"}), "train",
                       cache=False)
    own = [[55, 10, 8, 8, .9, 0], [60, 10, 8, 8, .8, 0], [10, 30, 9, 9, .7, 0], [10, 10, 6, 6, .6, 0],
           [70, 52, 8, 8, .5, 0], [30, 10, 10, 10, .4, 0]]
    metrics = judge(index.truth, found(own), index.names, PROTOCOLS["tinyperson"])
    assert metrics.n_labels == 2 and not metrics.alternatives
    assert metrics["AP50_tiny1"] == pytest.approx(1) and metrics["AP50_tiny3"] == -1
    # right at 1 of 1, false, right at 2 of 3; detections in the ignored regions count neither way
    assert metrics["AP50_tiny"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert judge(index.truth, found(own), index.names)["AP50"] < 0.5  # COCO takes them for objects and false alarms
