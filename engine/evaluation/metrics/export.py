"""The numbers of an evaluation as files: metrics.json with all of them to full precision, per_class.csv."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.evaluation.metrics.judge import Metrics, Scores
from utils.files import write_bytes


def metrics_record(metrics: Metrics, names: Sequence[str]) -> dict[str, Any]:
    """The numbers by one protocol as plain data, undefined ones None. names: of the classes."""
    protocol, sizes = metrics.protocol, metrics.sizes
    record = {
        "protocol": protocol.name, "title": protocol.title, "ious": list(protocol.ious),
        "areas": {label: list(span) for label, span in protocol.areas.items()}, "max_dets": list(protocol.max_dets),
        **_scores(metrics), "confidence": metrics.confidence, "unseen_images": metrics.unseen,
        "alternatives": [{"title": row.title, "why": row.why, "values": _defined(row.values)}
                         for row in metrics.alternatives],
        "per_class": [{"class": name, **_scores(row)} for name, row in zip(names, metrics.per_class, strict=True)]}
    if sizes:
        record["sizes"] = [
            {"size": label, "AP": _number(sizes.mean[a]), "objects": int(sizes.objects[:, a].sum()),
             "per_class": {name: {"AP": _number(sizes.ap[k, a]), "objects": int(sizes.objects[k, a])}
                           for k, name in enumerate(names)}} for a, label in enumerate(sizes.labels)]
    return record


def write_metrics_json(path: Path, records: Sequence[dict[str, Any]], more: dict[str, Any]) -> None:
    """metrics.json: the records of the protocols, the one that was asked for first. more: further keys."""
    write_bytes(path, (json.dumps({"protocols": list(records), **more}, indent=1, allow_nan=False) + "\n").encode())


def write_per_class_csv(path: Path, metrics: Metrics, names: Sequence[str]) -> None:
    """per_class.csv: a row for all classes and one per class, with every number and the objects of each size.

    Undefined numbers are empty. The class of the first row is empty too, since a class may have any name.
    """
    sizes, text = metrics.sizes, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = sizes.labels if sizes else ()
    writer.writerow(["class", "images", "labels", "precision", "recall", "f1", *metrics.protocol.names,
                     *(f"objects {label}" for label in labels)])
    rows: list[tuple[str, Scores]] = [("", metrics), *zip(names, metrics.per_class, strict=True)]
    for k, (name, row) in enumerate(rows, -1):
        counts = (sizes.objects.sum(0) if k < 0 else sizes.objects[k]).tolist() if sizes else []
        numbers = (row.precision, row.recall, row.f1, *(row.values[n] for n in metrics.protocol.names))
        writer.writerow([name, row.n_images, row.n_labels, *("" if v < 0 else repr(float(v)) for v in numbers),
                         *counts])
    write_bytes(path, text.getvalue().encode())


def _scores(row: Scores) -> dict[str, Any]:
    return {"images": row.n_images, "labels": row.n_labels, "precision": _number(row.precision),
            "recall": _number(row.recall), "f1": _number(row.f1), "values": _defined(row.values)}


def _defined(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return None if value < 0 else float(value)
