"""Every picture is made, from usual and from odd input, without a warning."""

import cv2
import numpy as np
import pytest

from engine.evaluation import plots
from engine.evaluation.metrics.judge import Metrics
from tests.engine.evaluation.test_evaluator import collect, compute, found, truth
from tests.utils.reporting.test_plots import ODD, apart, shape

pytestmark = pytest.mark.filterwarnings("error")


def evaluated(boxes: dict, rows: list, nc: int) -> Metrics:
    collector = collect(truth(boxes, range(nc)), list(range(nc)))
    collector.update(list(boxes)[:1], [found(rows)])
    return compute(collector)


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


@pytest.mark.parametrize("count", [3, 31, 80])
def test_names_beside_the_matrix_do_not_overlap(monkeypatch, count):
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: figures.append(figure))
    plots.plot_confusion_matrix(np.eye(count + 1), [f"a rather long name {k}" for k in range(count)], "c.png")
    figures[0].canvas.draw()
    apart(figures[0].axes[0].get_xticklabels(), count + 1)
    apart(figures[0].axes[0].get_yticklabels(), count + 1)


def test_names_in_every_script_differ_on_a_figure(tmp_path):
    """Two Chinese names, one of them longer, give other pixels beside the matrix; the numbers stay where they are."""
    pictures = []
    for name in ("圆形", "方块", "красный"):
        plots.plot_confusion_matrix(np.eye(3), [name, "car"], tmp_path / "a.png")
        pictures.append(cv2.imread(str(tmp_path / "a.png")))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    assert (pictures[0] != pictures[2]).any()
