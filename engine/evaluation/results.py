"""Result files of an evaluation: metrics.txt, metrics.json, figures, predictions.json and label files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data import Index
from engine.evaluation.config import ValConfig
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.confirm import compare_with_pycocotools, same_by_pycocotools
from engine.evaluation.metrics.export import metrics_record, write_metrics_json, write_per_class_csv
from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.judge import Metrics
from engine.evaluation.metrics.results_file import write_results_file
from engine.evaluation.metrics.table import format_size_table, format_table
from engine.evaluation.metrics.voc import format_voc_table
from engine.evaluation.pictures import draw_batches
from engine.evaluation.plots import plot_confusion_matrix, plot_curves, plot_size_curve, plot_voc_curve
from engine.evaluation.size_curve import size_curve, write_size_csv
from engine.evaluation.submission.image_names import image_stems
from engine.evaluation.submission.target import info_of
from engine.evaluation.submission.visdrone import check_visdrone, visdrone_categories, write_visdrone
from engine.evaluation.submission.voc import check_voc, voc_names, write_voc_files
from engine.inference.writing.names import UniqueStems
from engine.inference.writing.rows import label_rows
from utils.files import write_bytes


def write_results(result: Evaluation, index: Index, folder: Path, plots: bool = True, head: str = "",
                  run: Mapping[str, Any] | None = None) -> str:
    """Write metrics.txt, metrics.json, per_class.csv and YOLO's figures to `folder`; returns the text of metrics.txt,
    which stands below `head` there; run: what the numbers are of, for metrics.json. Of a split without objects there
    are no metrics, and a line says so.

    The table of the protocol that was asked for comes first, then COCO's. pycocotools computes both once more; the
    text says from which files, and where they differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not len(result.truth.image):
        if plots:
            draw_batches(result, index, folder)
        notes = compare_with_pycocotools(result.truth, result.found, result.metrics, result.max_det)
        return "\n".join(["no metrics: these images have no labels", *notes, *_damage(result)])
    shown = [result.metrics] if result.own is None else [result.own, result.metrics]
    text = "\n\n".join(_section(result, metrics, index, titled=len(shown) > 1) for metrics in shown)
    text = "\n\n".join([text, *([result.comparison] if result.comparison else []), *_damage(result)])
    above = f"{head}\n\n" * bool(head)
    write_bytes(folder / "metrics.txt", f"{above}{text}\n".encode("utf-8", "backslashreplace"))
    write_metrics_json(folder / "metrics.json", [metrics_record(m, index.names) for m in shown],
                       {"max_det": result.max_det, "ms_per_image": result.speed, "run": dict(run or {})})
    write_per_class_csv(folder / "per_class.csv", result.primary, index.names)
    if plots:
        draw_results(result, index, folder)
    return text


def _damage(result: Evaluation) -> list[str]:
    """What is to be said of images that could not be decoded, if there were some."""
    return [f"{len(result.damaged)} images could not be decoded: their objects count as missed, the first: "
            f"{result.damaged[0]}"] if result.damaged else []


def _section(result: Evaluation, metrics: Metrics, index: Index, titled: bool) -> str:
    """The tables of one protocol and what is to be said of them."""
    if metrics.voc:
        return format_voc_table(metrics.voc, index.names, kept=index.source.difficult == "keep")
    parts = [metrics.protocol.title] * titled + [format_table(metrics, index.names, per_class=True)]
    if metrics is result.metrics:
        parts += compare_with_pycocotools(result.truth, result.found, metrics, result.max_det)
    elif metrics.protocol.rule == "coco":
        parts.append(same_by_pycocotools(result.truth, result.found, metrics))
    if metrics is result.primary and metrics.sizes:
        parts.append("\n" + format_size_table(metrics, index.names))
    return "\n".join(parts).rstrip("\n")


def check_names(config: ValConfig, index: Index) -> None:
    """Refuse images and classes that the files of a server cannot name, before the work (`UserError`)."""
    if config.save_voc:
        voc_names(index)
    if config.save_visdrone:
        visdrone_categories(index)
        image_stems(index, "--save-visdrone")


def write_detections(config: ValConfig, found: Found, index: Index, folder: Path) -> None:
    """predictions.json (--save-json), labels/*.txt (--save-txt) and the files of the VOC and the VisDrone
    server (--save-voc, --save-visdrone), which are checked."""
    if config.save_json:
        truth = index.truth
        write_results_file(folder / "predictions.json", truth, found)
        if truth.file is None and len(truth.image):  # there is no COCO file of the user's to compare them with
            write_bytes(folder / "ground_truth.json", json.dumps(truth.to_coco()).encode())
    if config.save_txt:
        write_labels(found, index, folder / "labels", config.save_conf)
    if config.save_voc:
        print(check_voc(write_voc_files(found, index, folder), info_of(index)).format())
    if config.save_visdrone:
        print(check_visdrone(write_visdrone(found, index, folder, "visdrone"), info_of(index)).format())


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
    """All curves, the confusion matrix, and images with what became of their objects."""
    plot_curves(result.metrics, index.names, folder)
    if result.own and result.own.voc:
        plot_voc_curve(result.own.voc, index.names, folder / f"{result.own.protocol.name}_PR_curve.png")
    curve = size_curve(result.truth, result.found, result.primary.protocol)
    if curve is not None:
        plot_size_curve(curve, folder / "AP_size.png")
        write_size_csv(folder / "AP_size.csv", curve)
    plot_confusion_matrix(result.confusion.matrix, index.names, folder / "confusion_matrix.png")
    draw_batches(result, index, folder)
