"""Detections as COCO result rows, and their file."""

import json
from pathlib import Path
from typing import Any

from engine.evaluation.metrics.found import Found
from utils.files import write_bytes
from utils.truth import Truth


def result_rows(truth: Truth, found: Found) -> list[dict[str, Any]]:
    """COCO result rows, under the file's own ids, images in the order of the truth."""
    columns = (column.tolist() for column in (found.images, found.labels, found.boxes, found.scores))
    return [{"image_id": truth.image_ids[place], "category_id": truth.category_ids[label], "bbox": box, "score": score}
            for place, label, box, score in zip(*columns, strict=True)]


def write_results_file(path: Path | str, truth: Truth, found: Found) -> None:
    """Write `result_rows` as a COCO results file, atomically."""
    write_bytes(path, json.dumps(result_rows(truth, found)).encode())
