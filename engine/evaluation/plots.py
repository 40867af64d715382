"""Figures of an evaluation: curves, confusion matrix, AP over size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.evaluation.metrics.judge import Metrics
from engine.evaluation.metrics.voc import CURVE_RECALLS, VocMetrics
from engine.evaluation.size_curve import SizeCurve
from utils.reporting.plots import class_hex, class_text, new_figure, write_figure

NAMED = 20  # curves of more classes are drawn in grey, without a legend


def plot_curves(metrics: Metrics, names: Sequence[str], folder: Path | str) -> None:
    """PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into `folder`, all at IoU 0.5."""
    folder = Path(folder)
    plot_pr_curve(metrics, names, folder / "PR_curve.png")
    for letter, metric in (("F1", "f1"), ("P", "precision"), ("R", "recall")):
        plot_confidence_curve(metrics, names, folder / f"{letter}_curve.png", metric)


def plot_pr_curve(metrics: Metrics, names: Sequence[str], path: Path | str) -> None:
    """Precision over recall at IoU 0.5, per class and mean; the area under a curve is its AP50."""
    curves = metrics.curves
    labels = [f"{class_text(names, k)} {metrics.per_class[k]['AP50']:.3f}" for k in curves.classes]
    mean = f"all classes AP50 {max(metrics['AP50'], 0):.3f}"
    _plot_lines(curves.classes, curves.pr_recall, curves.pr_precision, labels, mean, ("Recall", "Precision"), path)


def plot_voc_curve(metrics: VocMetrics, names: Sequence[str], path: Path | str) -> None:
    """VOC's precision over recall, per class with its AP, and their mean."""
    classes = [k for k, row in enumerate(metrics.per_class) if row.labels]
    labels = [f"{class_text(names, k)} {metrics.per_class[k].AP:.3f}" for k in classes]
    curves = np.array([metrics.per_class[k].curve for k in classes])
    _plot_lines(classes, CURVE_RECALLS, curves, labels, f"all classes AP {max(metrics.AP, 0):.3f}",
                ("Recall", "Precision"), path)


def plot_confidence_curve(metrics: Metrics, names: Sequence[str], path: Path | str, metric: str = "f1") -> None:
    """`metric` (f1, precision or recall) over the confidence threshold at IoU 0.5, per class and mean."""
    curves = metrics.curves
    lines = getattr(curves, metric)  # (K, 1000)
    title = {"f1": "F1"}.get(metric, metric.capitalize())
    at = int(np.abs(curves.confidence - metrics.confidence).argmin())
    mean = lines[:, at].mean() if len(lines) else 0.0
    _plot_lines(curves.classes, curves.confidence, lines, [class_text(names, k) for k in curves.classes],
                f"all classes {mean:.2f} at {metrics.confidence:.3f}", ("Confidence", title), path)


def _plot_lines(classes: Sequence[int], x: np.ndarray, lines: np.ndarray, labels: Sequence[str], mean: str,
                titles: tuple[str, str], path: Path | str) -> None:
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    for k, line, label in zip(classes, lines, labels, strict=True):
        if len(lines) <= NAMED:
            axes.plot(x, line, linewidth=1, color=class_hex(k), label=label)
        else:
            axes.plot(x, line, linewidth=0.6, color="#b0b0b0")
    if len(lines):
        axes.plot(x, lines.mean(0), linewidth=3, color="#0033cc", label=mean)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)
    else:
        axes.text(0.5, 0.5, "no objects", ha="center")
    axes.set(xlabel=titles[0], ylabel=titles[1], xlim=(0, 1), ylim=(0, 1.02), title=f"{titles[1]} - {titles[0]}")
    axes.grid(alpha=0.3)
    write_figure(figure, path)


def plot_size_curve(curve: SizeCurve, path: Path | str) -> None:
    """AP over object size with its intervals, and the number of objects of each bin."""
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    x, known = np.sqrt(curve.edges[:-1] * curve.edges[1:]), np.isfinite(curve.ap)
    axes.fill_between(x[known], curve.low[known], curve.high[known], color="#0033cc", alpha=0.15,
                      label="95 % over images")
    axes.plot(x[known], curve.ap[known], marker="o", color="#0033cc", label=curve.name)
    for at, count in zip(x, curve.objects.tolist(), strict=True):
        axes.text(at, 0.01, f"{count:,}", ha="center", fontsize=8, color="#606060")
    axes.set_xscale("log", base=2)
    axes.set_xticks(curve.edges, [f"{edge:g}" for edge in curve.edges])
    axes.set(xlabel="Object size: sqrt(area) in pixels of the image (numbers: objects)", ylabel=curve.name,
             ylim=(0, 1.02), xlim=(curve.edges[0], curve.edges[-1]), title=f"{curve.name} over object size")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    write_figure(figure, path)


def plot_confusion_matrix(matrix: np.ndarray, names: Sequence[str], path: Path | str) -> None:
    """A matrix (nc+1, nc+1) as `engine.evaluation.confusion` counts it, each column as shares of its true class."""
    titles = [class_text(names, k, 20) for k in range(len(matrix) - 1)] + ["background"]
    total = matrix.sum(0, keepdims=True)
    shares = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=(total > 0) & (matrix > 0))
    side = min(max(5.5, 0.45 * len(matrix) + 2.5), 16)
    figure = new_figure(side + 1, side)
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, fraction=0.045)
    if len(matrix) <= 31:
        for row, column in np.argwhere(shares >= 0.005):
            value = shares[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8 if len(matrix) < 16 else 6,
                      color="white" if value > 0.5 else "black")
    if len(matrix) <= 100:
        size = 9 if len(matrix) <= 31 else 6
        axes.set_xticks(range(len(matrix)), titles, rotation=90, fontsize=size)
        axes.set_yticks(range(len(matrix)), titles, fontsize=size)
    axes.set(xlabel="True", ylabel="Predicted", title="Confusion matrix, columns sum to 1")
    write_figure(figure, path)
