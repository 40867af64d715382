"""The diagnosis of an evaluation in its results folder: diagnosis.html, diagnosis.json, misses.csv."""

from collections.abc import Mapping
from pathlib import Path

from data import Index
from engine.evaluation.config import ValConfig
from engine.evaluation.diagnosis.diagnose import Diagnosis, diagnose
from engine.evaluation.diagnosis.evidence import Watch
from engine.evaluation.diagnosis.files import format_summary, write_numbers
from engine.evaluation.diagnosis.page import render_page
from engine.evaluation.diagnosis.pictures import missed_crops, worst_images
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metrics.protocol import COCO
from engine.evaluation.setup import scores_for
from engine.inference.runtimes.base import Runtime
from utils.files import write_bytes
from utils.select import Selector


def open_watch(runtime: Runtime, index: Index, loader, select: Selector, single_cls: bool, data: str) -> Watch:
    """A `Watch` on the evaluation of a model; select: as `select_for` gives it."""
    return Watch(index.truth, loader, select, scores_for(runtime, index, single_cls, data),
                 not runtime.finds_sets)


def report_diagnosis(config: ValConfig, runtime: Runtime, result: Evaluation, index: Index, watch: Watch,
                     folder: Path) -> str:
    """Write the diagnosis of an evaluation after `Watch.gather`, and return its summary. Runs on the main process; the
    time of observing becomes a stage of its own in `result.speed`."""
    images = max(int(result.found.seen.sum()), 1)
    result.speed["load"] -= 1e3 * watch.in_load / images
    result.speed["diagnosis"] = 1e3 * watch.seconds / images
    thresholds = watch.config or config.thresholds(runtime.thresholds)
    own = result.own if result.own is not None and result.own.protocol.rule == COCO.rule else None
    metrics = own or result.metrics  # the matching is COCO's, so of the others only limits and ignore regions count
    told = diagnose(metrics, metrics.protocol.truth(result.truth), result.found, index.names, watch.evidence,
                    thresholds, not runtime.finds_sets)
    size = " x ".join(map(str, runtime.choose_size(config.imgsz)))
    nms = ", without NMS" if runtime.finds_sets else f", NMS above IoU {thresholds.iou:g}"
    header = {
        "weights": runtime.path, "data": f"{config.data or runtime.trained.get('data')}, {config.task}",
        "images": f"{images}, input size {size}",
        "selection": f"confidence above {thresholds.conf:g}{nms}, at most {thresholds.max_det} per image",
        "protocol": metrics.protocol.title,
        "result": ", ".join(f"{name} {value:.4f}" for name, value in list(metrics.values.items())[:4])}
    return write_diagnosis(told, index, folder, header, pictures=not config.noplots)


def write_diagnosis(told: Diagnosis, index: Index, folder: Path, header: Mapping[str, object],
                    pictures: bool = True) -> str:
    """Write the three files; returns the summary that is printed. header: what was evaluated, name -> value."""
    records = {record.image_id: record for record in index.records}
    paths = {key: record.path for key, record in records.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_numbers(told, paths, folder)
    first = told.views[0]
    worst, crops = (worst_images(told, first, records), missed_crops(told, first, records)) if pictures else ([], {})
    write_bytes(folder / "diagnosis.html", render_page(told, header, paths, worst, crops).encode())
    return f"{format_summary(told)}\ndiagnosis in {folder / 'diagnosis.html'}"
