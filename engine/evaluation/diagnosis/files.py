"""The numbers of a diagnosis: text, diagnosis.json, misses.csv."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.diagnosis.causes import BINS, CAUSES, FLOOR, IOU, KINDS, NEAR, SIDES
from engine.evaluation.diagnosis.diagnose import Diagnosis, View
from utils.errors import printable
from utils.files import write_bytes
from utils.reporting.draw import class_name

COLUMNS = ("image", "image_id", "class", "left", "top", "width", "height", "side", "side_input", "cause_best_f1",
           "cause_all", "best_iou", "best_score", "other_class", "other_score")


def format_summary(told: Diagnosis) -> str:
    """What is missed, by cause and size, as text."""
    lines = []
    for view in told.views:
        total = int(told.counted.sum())
        lines.append(f"of {total} objects {int(view.missed.sum())} are missed at confidence {view.confidence:.3f} "
                     f"({view.title}), IoU {IOU}:")
        rows = [("side in pixels", BINS, "all"), ("objects", told.objects(), total)]
        rows += [(word.title, row, row.sum()) for word, row in zip(CAUSES, told.table(view), strict=True) if row.any()]
        lines += [f"  {name:<28}" + "".join(f"{value:>9}" for value in (*row, last)) for name, row, last in rows]
    return "\n".join(lines)


def summary(told: Diagnosis) -> dict[str, Any]:
    """All numbers of a diagnosis as plain objects."""
    names = [str(name) for name in told.names]
    config = {"iou": IOU, "near_iou": NEAR, "least_score": min(FLOOR, told.config.conf), "conf": told.config.conf,
              "nms_iou": told.config.iou if told.suppresses else None, "max_det": told.config.max_det,
              "max_det_per_class": told.limit, "size_limits": list(SIDES)}
    return {"settings": config, "images": len(told.found.seen), "images_seen": int(told.found.seen.sum()),
            "objects": int(told.counted.sum()), "objects_by_size": _by(BINS, told.objects()),
            "views": {view.key: _view(told, view, names) for view in told.views},
            "tide": told.tide, "calibration": _plain(told.calibration)}


def _view(told: Diagnosis, view: View, names: list[str]) -> dict[str, Any]:
    table, by_class = told.table(view), told.by_class(view)
    keys = [word.key for word in CAUSES]
    return {"confidence": view.confidence, "missed": int(view.missed.sum()),
            "missed_by_cause": _by(keys, table.sum(1)), "missed_by_size": _by(BINS, table.sum(0)),
            "missed_by_cause_and_size": {key: _by(BINS, row) for key, row in zip(keys, table, strict=True)},
            "missed_by_class": [{"class": name, "objects": int(count), **_by(keys, column)} for name, count, column in
                                zip(names, _class_counts(told), by_class.T, strict=True)],
            "false_alarms": _by([word.key for word in KINDS], told.alarms(view))}


def _class_counts(told: Diagnosis) -> np.ndarray:
    return np.bincount(told.truth.label[told.counted], minlength=len(told.truth.category_ids))


def _by(keys, values: np.ndarray) -> dict[str, int]:
    return dict(zip(keys, values.tolist(), strict=True))


def _plain(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    return calibration and {key: value for key, value in calibration.items() if key != "per_category"}


def write_numbers(told: Diagnosis, paths: dict[Any, str], folder: Path) -> None:
    """diagnosis.json, and misses.csv with a row per object that is missed in either view. paths: of the images, by
    record id."""
    write_bytes(folder / "diagnosis.json", json.dumps(summary(told), ensure_ascii=False, indent=1).encode())
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    truth, said = told.truth, told.evidence
    for k in np.flatnonzero(told.views[0].missed | told.views[1].missed).tolist():
        place, other = truth.image[k], said.other_label[k]
        causes = [CAUSES[view.causes[k]].key if view.missed[k] else "" for view in told.views]
        path, name = printable(paths.get(truth.record_ids[place], "")), class_name(told.names, truth.label[k])
        writer.writerow((
            path, truth.image_ids[place], name,
            *(f"{value:.2f}" for value in (*truth.boxes[k], told.sides[k], told.sides[k] * said.scale[k])), *causes,
            f"{said.best_iou[k]:.3f}", f"{said.right[k]:.5f}",
            class_name(told.names, other) if other >= 0 else "", f"{said.other[k]:.5f}" if other >= 0 else ""))
    write_bytes(folder / "misses.csv", text.getvalue().encode())
