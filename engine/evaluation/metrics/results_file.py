"""Detections as COCO result rows, and their file."""

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engine.evaluation.metrics.found import Found
from utils.errors import UserError
from utils.files import replacing
from utils.truth import Truth


def result_rows(truth: Truth, found: Found) -> list[dict[str, Any]]:
    """COCO result rows, under the file's own ids, images in the order of the truth."""
    columns = (column.tolist() for column in (found.images, found.labels, found.boxes, found.scores))
    return [{"image_id": truth.image_ids[place], "category_id": truth.category_ids[label], "bbox": box, "score": score}
            for place, label, box, score in zip(*columns, strict=True)]


def write_results_file(path: Path | str, truth: Truth, found: Found) -> None:
    """Write `result_rows` as a COCO results file, atomically."""
    write_rows(path, row_texts(truth.image_ids, truth.category_ids, found))


def write_rows(path: Path | str, rows: Iterable[str], block: int = 5000) -> int:
    """Write `row_texts` as a JSON list, a row per line, atomically; returns how many.

    Memory does not grow with their number.
    """
    count, rows = 0, iter(rows)
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
            file.write("[")
            while part := list(islice(rows, block)):
                file.write(",\n" * (count > 0) + ",\n".join(part))
                count += len(part)
            file.write("]\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}", "unwritable-file") from None
    return count


def row_texts(image_ids: Sequence[Hashable], category_ids: Sequence[Hashable], found: Found) -> Iterator[str]:
    """COCO's rows of detections as JSON, boxes to 1/1000 pixel and scores to 1e-5.

    image_ids, category_ids: what the positions in `found.images` and `found.labels` are called in the file.
    """
    heads = [f'{{"image_id":{json.dumps(image)},"category_id":' for image in image_ids]
    kinds = [json.dumps(category) for category in category_ids]
    for start in range(0, len(found.images), 10_000):
        part = slice(start, start + 10_000)
        columns = (found.images[part].tolist(), found.labels[part].tolist(), found.boxes[part].round(3).tolist(),
                   found.scores[part].round(5).tolist())
        for image, label, box, score in zip(*columns, strict=True):  # the repr of a list of floats is its JSON
            yield f'{heads[image]}{kinds[label]},"bbox":{box!r},"score":{score!r}}}'
