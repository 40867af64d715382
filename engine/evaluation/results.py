"""Result files of an evaluation: metrics.txt, figures, predictions.json and label files."""

import json
from pathlib import Path

import numpy as np

from data import Index
from engine.evaluation.config import ValConfig
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.confirm import compare_with_pycocotools
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.results_file import write_results_file
from engine.evaluation.metrics.table import format_table
from engine.evaluation.metrics.voc import VOC_RULES, format_voc_table, voc_metrics
from engine.evaluation.plots import plot_comparison, plot_confusion_matrix, plot_curves, plot_voc_curve
from engine.evaluation.submission.voc import write_voc_files
from engine.inference.writer import UniqueStems, label_rows
from utils.files import write_bytes


def write_results(result: Evaluation, index: Index, folder: Path, plots: bool = True, metric: str = "coco") -> str:
    """Write metrics.txt and YOLO's figures to `folder`; returns the tables of metrics.txt. Of a split without objects
    there are no metrics, and a line says so.

    pycocotools computes the twelve metrics once more; the table says from which files, and where they differ. metric:
    one of `VOC_RULES` adds VOC's table and curves, and sets `result.voc`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = compare_with_pycocotools(result.truth, result.found, result.metrics, result.max_det)
    if not len(result.truth.image):
        if plots:
            draw_batches(result, index, folder)
        return "\n".join(["no metrics: these images have no labels", *notes])
    table = "\n".join([format_table(result.metrics, index.names, per_class=True), *notes])
    if metric in VOC_RULES:
        result.voc = voc_metrics(result.truth, result.found, metric)
        table += "\n\n" + format_voc_table(result.voc, index.names, kept=index.source.difficult == "keep")
        if plots:
            plot_voc_curve(result.voc, index.names, folder / f"{metric}_PR_curve.png")
    (folder / "metrics.txt").write_text(table + "\n", encoding="utf-8")
    if plots:
        draw_results(result, index, folder)
    return table


def write_detections(config: ValConfig, found: Found, index: Index, folder: Path) -> None:
    """predictions.json (--save-json), labels/*.txt (--save-txt) and the files of the VOC server (--save-voc)."""
    if config.save_json:
        truth = index.truth
        write_results_file(folder / "predictions.json", truth, found)
        if truth.file is None and len(truth.image):  # there is no COCO file of the user's to compare them with
            write_bytes(folder / "ground_truth.json", json.dumps(truth.to_coco()).encode())
    if config.save_txt:
        write_labels(found, index, folder / "labels", config.save_conf)
    if config.save_voc:
        print(f"for the VOC server: {write_voc_files(found, index, folder)}")


def write_labels(found: Found, index: Index, folder: Path, with_conf: bool) -> None:
    """Detections as YOLO txt, one file per image: class, centre, size as fractions of the image [, confidence]."""
    folder.mkdir(parents=True, exist_ok=True)
    stem_of, places = UniqueStems(), {record: k for k, record in enumerate(index.truth.record_ids)}
    for record in index.records:
        labels, boxes, scores = found.of(places[record.image_id])
        size = np.array((record.width, record.height, record.width, record.height))
        boxes = np.concatenate((boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]), 1) / size
        rows = label_rows(labels.tolist(), boxes.tolist(), scores.tolist() if with_conf else None)
        write_bytes(folder / f"{stem_of(record.path)}.txt", rows.encode())


def draw_results(result: Evaluation, index: Index, folder: Path) -> None:
    """PR, F1, P and R curves, confusion matrix, and the first batches with ground truth beside prediction."""
    plot_curves(result.metrics, index.names, folder)
    plot_confusion_matrix(result.confusion.matrix, index.names, folder / "confusion_matrix.png")
    draw_batches(result, index, folder)


def draw_batches(result: Evaluation, index: Index, folder: Path) -> None:
    """The first batches with ground truth beside prediction."""
    for number, (batch, found) in enumerate(result.plot_batches):
        path = folder / f"val_batch{number}.jpg"
        plot_comparison(batch.images, batch.targets.unpack(), found, path, index.names)
