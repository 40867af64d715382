"""How large objects are at the training size: what anchors are checked against and learned from."""

from collections.abc import Sequence

import numpy as np

from data.images.placement import Placement
from data.labels.records import Record, RecordTable
from utils.frame import Frame

LEAST = 2.0  # px; training leaves out boxes with a thinner side (`YoloPolicy.min_side`)


def object_sizes(records: Sequence[Record], placement: Placement | int, least: float = LEAST) -> np.ndarray:
    """(N, 2) float32 width, height in pixels of all objects, each image as large as it lies in its frame; a number: its
    longest side.

    Crowds, and objects with a side below `least` px, are left out.
    """
    table, placement = RecordTable.from_records(records), Placement.of(Frame(), placement)
    if placement.frame.fit == "letterbox":
        zoom = (placement.side / table.sizes.max(1, initial=1))[:, None]  # (n, 1)
    else:
        zoom = (placement.fitted_all(table.sizes) / table.sizes)[:, ::-1]  # (n, 2) x, y
    sides = (table.boxes[:, 2:] - table.boxes[:, :2]) * zoom[table.image_of_label()]  # (M, 2)
    return sides[~table.ignore & (sides >= least).all(1)].astype(np.float32)
