"""Figures of a run are drawn, from usual and from odd input, without a warning."""

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

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


def drawn(monkeypatch, name: str, *values) -> Figure:
    """The figure that a function of `plots` makes."""
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: figures.append(figure))
    getattr(plots, name)(*values)
    figures[0].canvas.draw()
    return figures[0]


def test_the_best_epoch_is_marked(tmp_path, monkeypatch):
    csv = tmp_path / "results.csv"
    rows = [f"{k},{9 - k},0.{k % 5},-1\n" for k in range(1, 9)]
    csv.write_text("".join(["epoch,train/box,metrics/AP,metrics/AP_S\n", *rows]))
    for best in (4, 0):
        figure = drawn(monkeypatch, "plot_results", csv, "r.png", best)
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["box loss", "AP: 0.400" if best else "AP", "AP_S"]
        lines = [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
        assert [line.get_xdata()[0] for line in lines] == [4] * 3 * bool(best)
        stars = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(4, 0.4)] * bool(best)


@pytest.mark.parametrize("count", [6, 30, 80, 100])
def test_names_of_classes_do_not_overlap(monkeypatch, count):
    names = [f"a rather long name {k}" for k in range(count)]
    records = [record([[0, 0, 20, 20]] * count, range(count), [False] * count)]
    apart(drawn(monkeypatch, "plot_labels", records, names, "l.png").axes[0].get_xticklabels(), count)


def apart(ticks: list, count: int) -> None:
    """Every tick has its text, and none touches another."""
    boxes = [tick.get_window_extent() for tick in ticks]
    assert len(boxes) == count and all(tick.get_text() for tick in ticks)
    assert all(not one.overlaps(other) for one, other in pairwise(boxes))


def test_names_that_nothing_can_draw_are_spelled(monkeypatch):
    monkeypatch.setattr(plot_text, "font_file", lambda letters: None)
    monkeypatch.setattr(plot_text, "opencv_draws", str.isascii)
    assert plot_text.readable("圆 x") == "u5706 x" and plot_text.readable("car") == "car"
