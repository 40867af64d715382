"""COCO's results file, detections_[set]_[algorithm]_results.json in a zip file of the same stem.

The form is that of https://cocodataset.org/#format-results and https://cocodataset.org/#upload.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path

from engine.evaluation.metrics.found import Found
from engine.evaluation.metrics.results_file import row_texts, write_rows
from engine.evaluation.submission.packing import write_zip

MAX_DETECTIONS = 100  # of an image that the server counts


def file_stem(test_set: str, name: str) -> str:
    """The stem of the JSON and the zip file that the server takes."""
    return f"detections_{test_set}_{name}_results"


def write_coco(path: Path, image_ids: Sequence[Hashable], category_ids: Sequence[Hashable], found: Found) -> Path:
    """Write the best `MAX_DETECTIONS` of each image as JSON, and a zip file beside it; returns the zip.

    image_ids, category_ids: what the positions in `found.images` and `found.labels` are called in the file. The same
    detections give the same bytes.
    """
    write_rows(path, row_texts(image_ids, category_ids, found.best(MAX_DETECTIONS, by_class=False)))
    write_zip(path.with_suffix(".zip"), [path])
    return path.with_suffix(".zip")
