"""How large objects are at the training size: what anchors are checked against and learned from."""

from collections.abc import Sequence

import numpy as np

from data.labels.records import Record, RecordTable

LEAST = 2.0  # px; training leaves out boxes with a thinner side (`YoloPolicy.min_side`)


def object_sizes(records: Sequence[Record], imgsz: int) -> np.ndarray:
    """(N, 2) float32 width, height in pixels of all objects, each image resized so that its longest side is `imgsz`.

    Crowds, and objects with a side below 2 px, are left out.
    """
    table = RecordTable.from_records(records)
    zoom = imgsz / table.sizes.max(1, initial=1)  # (n,)
    sides = (table.boxes[:, 2:] - table.boxes[:, :2]) * zoom[table.image_of_label(), None]  # (M, 2)
    return sides[~table.ignore & (sides >= LEAST).all(1)].astype(np.float32)
