"""Figures of a run are drawn, from usual and from odd input, without a warning."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.refusals import refused
from utils.reporting import plot_text, plots

pytestmark = pytest.mark.filterwarnings("error")
ODD = ["_赤血球", "costs $5 or $6", "a name that is far too long for any legend or tick, is it not"]


def shape(path) -> tuple[int, ...]:
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 1  # neither broken nor blank
    return picture.shape


def record(boxes: list, labels: list, ignore: list) -> SimpleNamespace:
    n = len(labels)
    boxes = np.array(boxes, np.float32).reshape(n, 4)
    return SimpleNamespace(height=100, width=200, boxes=boxes, labels=np.array(labels, np.int64),
                           areas=(boxes[:, 2:] - boxes[:, :2]).prod(1), ignore=np.array(ignore, bool))


@pytest.mark.parametrize("records", [
    [record([[0, 0, 20, 20], [10, 10, 190, 90]], [0, 2], [False, True]), record([], [], [])],
    []])
def test_labels(tmp_path, records):
    plots.plot_labels(records, ODD, tmp_path / "labels.jpg")
    assert shape(tmp_path / "labels.jpg")


def test_results_of_a_run(tmp_path):
    csv = tmp_path / "results.csv"
    csv.write_text("epoch,time,train/box,metrics/AP,metrics/AP_L,val/box,lr\n1,2,3.0,,,,0.1\n2,4,2.0,0.5,-1,2.5,0.05\n")
    plots.plot_results(csv, tmp_path / "results.png")
    assert shape(tmp_path / "results.png")
    csv.write_text("         epoch,      train/box_loss,  x/lr0,  x/lr1\n          0,  1.5,  0.01, 0.01\n")
    plots.plot_results(csv, tmp_path / "yolo.png")  # as YOLOv5 writes it
    assert shape(tmp_path / "yolo.png")
    csv.write_text("")
    with refused("empty-file", csv.name):
        plots.plot_results(csv, tmp_path / "none.png")


def test_names_that_nothing_can_draw_are_spelled(monkeypatch):
    monkeypatch.setattr(plot_text, "font_file", lambda letters: None)
    monkeypatch.setattr(plot_text, "opencv_draws", str.isascii)
    assert plot_text.readable("圆 x") == "u5706 x" and plot_text.readable("car") == "car"
