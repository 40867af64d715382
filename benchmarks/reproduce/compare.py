"""What was measured beside what was published."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.reproduce.rows import AT_IOU, Row
from data import load_index
from engine.evaluation.comparison.results_reader import read_results
from engine.evaluation.metrics.judge import judge
from engine.evaluation.metrics.protocol import COCO, Stat
from utils.errors import UserError

REPRODUCED, CONTRADICTED, NOT_RUN = "reproduced", "contradicted", "not run"
SUBMITTED, NO_TARGET = "submission written", "measured, no target"
STATUSES = (REPRODUCED, CONTRADICTED, NOT_RUN, SUBMITTED, NO_TARGET)
SLACK = 1e-9  # percent: of sums of decimals


def verdict(row: Row, measured: Mapping[str, float]) -> dict[str, Any]:
    """The status of a row whose numbers were measured, in percent, with each difference (ours minus theirs).

    Reproduced: every published number is within its tolerance, in both directions; of numbers that were not published
    nothing is said. Raises `UserError` where a published number was not measured.
    """
    lacking = [name for name in row.published if name not in measured]
    if lacking:
        raise UserError(f"{row.name}: {', '.join(lacking)} published, not measured; measured are "
                        f"{', '.join(measured) or 'none'}", "missing-number")
    differences = {name: round(measured[name] - value, 3) for name, value in row.published.items()}
    outside = [name for name, value in differences.items() if abs(value) > row.tolerance[name] + SLACK]
    status = NO_TARGET if not row.comparable else CONTRADICTED if outside else REPRODUCED
    return {"status": status, "measured": dict(measured), "published": dict(row.published), "differences": differences,
            "tolerance": {name: row.tolerance[name] for name in row.published}, "outside": outside}


def measured_in(folder: Path, row: Row, data: str) -> dict[str, float]:
    """The numbers of an evaluation in percent, of all its protocols, and of AT_IOU where one of those was published.
    folder: of val.py's results; data: the YAML that it read."""
    path = folder / "metrics.json"
    try:
        protocols = json.loads(path.read_text(encoding="utf-8"))["protocols"]
        values = {name: value for record in reversed(protocols) for name, value in record["values"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not written by val.py ({type(error).__name__}); evaluate again", "corrupt-file") \
            from None
    if set(row.published) & set(AT_IOU):
        values |= at_more_overlaps(folder / "predictions.json", data, row.evaluate.get("task", "val"))
    return {name: 100 * value for name, value in values.items() if value is not None}


def at_more_overlaps(results: Path, data: str, split: str) -> dict[str, float | None]:
    """COCO's AP at each overlap of AT_IOU, as fractions: the same precisions, taken at one threshold."""
    index = load_index(data, split)
    stats = tuple(Stat(name, "AP", next(t for t in COCO.ious if abs(t - iou) < 1e-6)) for name, iou in AT_IOU.items())
    metrics = judge(index.truth, read_results(results, index.truth, index.names).found, index.names,
                    replace(COCO, stats=stats))
    return {name: None if value < 0 else value for name, value in metrics.values.items()}
