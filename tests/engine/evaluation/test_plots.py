"""Every picture is made, from usual and from odd input, without a warning."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from engine.evaluation import plots
from engine.evaluation.evaluator import CocoEvaluator, Metrics
from tests.engine.evaluation.test_evaluator import found, truth
from utils.errors import UserError
from utils.reporting import plot_text
from utils.structures import Targets, pack_targets

pytestmark = pytest.mark.filterwarnings("error")
ODD = ["_赤血球", "costs $5 or $6", "a name that is far too long for any legend or tick, is it not"]


def evaluated(boxes: dict, rows: list, nc: int) -> Metrics:
    evaluator = CocoEvaluator(truth(boxes, range(nc)), nc, list(range(nc)))
    evaluator.update(list(boxes)[:1], [found(rows)])
    return evaluator.compute()


def shape(path) -> tuple[int, ...]:
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 1  # neither broken nor blank
    return picture.shape


@pytest.mark.parametrize("nc", [3, 25])
def test_curves(tmp_path, nc):
    names = ODD + [f"n{i}" for i in range(nc - 3)]
    metrics = evaluated({1: [[10 * k, 0, 9, 9, k] for k in range(nc)]},
                        [[10 * k, 0, 9, 9 - k % 3, 0.9 - k / 50, k] for k in range(nc)], nc)
    plots.plot_curves(metrics, names, tmp_path / "new")
    for name in ("PR_curve", "F1_curve", "P_curve", "R_curve"):
        assert shape(tmp_path / "new" / f"{name}.png")


def test_curves_without_any_object(tmp_path):
    plots.plot_curves(evaluated({1: []}, [[0, 0, 5, 5, 0.5, 0]], 3), ODD, tmp_path)
    assert shape(tmp_path / "PR_curve.png")


@pytest.mark.parametrize("nc", [0, 3, 80])
def test_confusion_matrix(tmp_path, nc):
    matrix = np.random.default_rng(0).integers(0, 3, (nc + 1, nc + 1))
    matrix[:, -1] = 0
    plots.plot_confusion_matrix(matrix, (ODD * 40)[:nc], tmp_path / "confusion_matrix.png")
    assert shape(tmp_path / "confusion_matrix.png")


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
    with pytest.raises(UserError, match="no rows"):
        plots.plot_results(csv, tmp_path / "none.png")


def test_batch_mosaic(tmp_path):
    images = torch.full((5, 3, 32, 64), 100, dtype=torch.uint8)
    targets = [Targets(torch.tensor([[2.0, 20.0, 30.0, 30.0]]), torch.tensor([i % 3]), torch.tensor([i == 0]))
               for i in range(5)]
    plots.plot_batch(images, targets, tmp_path / "train_batch0.jpg", ODD)
    assert shape(tmp_path / "train_batch0.jpg") == (2 * 34 - 2, 3 * 66 - 2, 3)
    plots.plot_batch(images.float() / 255, pack_targets(targets), tmp_path / "again.png", ODD, limit=1)
    assert shape(tmp_path / "again.png") == (32, 64, 3)
    plots.plot_batch(torch.zeros(1, 3, 1280, 640, dtype=torch.uint8), [Targets.empty()], tmp_path / "large.png", ODD)
    assert cv2.imread(str(tmp_path / "large.png")).shape == (640, 320, 3)


def test_comparison_shows_truth_left_and_sure_predictions_right(tmp_path):
    images = torch.full((1, 3, 100, 100), 100, dtype=torch.uint8)
    target = [Targets(torch.tensor([[60.0, 60.0, 90.0, 90.0]]), torch.tensor([0]))]
    plots.plot_comparison(images, target, [found([[10, 60, 20, 20, 0.2, 1]])], tmp_path / "c.png", ODD)
    picture = cv2.imread(str(tmp_path / "c.png"))
    assert picture.shape == (100, 202, 3)
    assert (picture[60:, :100] != 100).any() and (picture[60:, 102:] == 100).all()
    plots.plot_comparison(images, target, [found([[10, 60, 20, 20, 0.2, 1]])], tmp_path / "c.png", ODD, conf=0.1)
    assert (cv2.imread(str(tmp_path / "c.png"))[60:, 102:] != 100).any()


def test_names_in_every_script_differ_on_a_figure(tmp_path):
    """Two Chinese names, one of them longer, give other pixels beside the matrix; the numbers stay where they are."""
    pictures = []
    for name in ("圆形", "方块", "красный"):
        plots.plot_confusion_matrix(np.eye(3), [name, "car"], tmp_path / "a.png")
        pictures.append(cv2.imread(str(tmp_path / "a.png")))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()


def test_names_that_nothing_can_draw_are_spelled(monkeypatch):
    monkeypatch.setattr(plot_text, "font_file", lambda letters: None)
    monkeypatch.setattr(plot_text, "opencv_draws", str.isascii)
    assert plot_text.readable("圆 x") == "u5706 x" and plot_text.readable("car") == "car"
