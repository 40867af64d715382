"""Tiled training on the fly: large images become overlapping windows of their files; no file is written.

Small objects keep their pixels: an image of 4000 x 3000 seen at 640 shrinks six times, its tiles of 640 not at all.
The windows lie as in sliced inference (SAHI, Akyon et al. 2022): a regular grid whose last row and column are pushed
back inside, so every object smaller than the overlap is whole in one tile at least.

Legend: n images, M labels, T tiles, K pairs of a label and a tile that shows some of it.
"""

from dataclasses import replace

import numpy as np

from data.index import Index
from data.labels.records import RecordTable, gather
from utils.errors import UserError

MIN_SIZE = 32
CHUNK = 4096  # images cut at a time, so that what is only needed on the way stays small
MIN_VISIBLE = 1 / 3  # of a box's area; with less in a tile it is an ignore region there: neither object nor background


def tile_index(index: Index, size: int, overlap: float = 0.2) -> Index:
    """The index with every image larger than `size` px on a side replaced by its windows, in the order of the images.

    overlap: of neighbouring windows, as a fraction of `size`, 0 to 0.9. A window is `size` x `size`, less where the
    image is; it keeps the image's id. Boxes are cut at its border; one of which less than a third is left becomes an
    ignore region. `areas` stay those of the whole objects. The report tells what became of images and boxes.
    """
    if not size >= MIN_SIZE:
        raise UserError(f"--tile {size}: a tile should be {MIN_SIZE} pixels or more; give a size such as 640",
                        "bad-value")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"--tile-overlap {overlap}: should be a fraction from 0 to 0.9, such as 0.2", "bad-value")
    table = RecordTable.from_records(index.records)
    if table.windows is not None:
        raise UserError("--tile: this index is cut into tiles already; cut the whole images instead", "flag-conflict")
    many, objects = int((table.sizes > size).any(1).sum()), int((~table.ignore).sum())
    chunks = [table[k:k + CHUNK] for k in range(0, max(len(table), 1), CHUNK)]
    parts = [_cut(chunk, *_windows(chunk.sizes, size, round(size * overlap))) for chunk in chunks]
    tiled = RecordTable.join([part for part, _ in parts])
    if not many:
        tiled.windows = tiled.full_sizes = None
    cut, ignored, lost = np.sum([counts for _, counts in parts], 0).tolist()
    report = replace(index.report, images=len(tiled), ignored=int(tiled.ignore.sum()),
                     boxes=int((~tiled.ignore).sum()), background=int((np.diff(tiled.ends, prepend=0) == 0).sum()))
    report.notes = [*report.notes, f"--tile {size}: {len(table)} images became {len(tiled)} tiles ({many} images were "
                    f"cut, {len(table) - many} stay whole); at their borders {cut} boxes are cut, and {ignored} more, "
                    f"of which less than a third is left, became ignore regions"]
    if lost:
        report.notes.append(f"--tile {size}: {lost} of the {objects} boxes are too large for every tile and "
                            f"only ignore regions; a larger tile or a second training without tiles learns them")
    return replace(index, records=tiled, report=report)


def starts(length: int, size: int, overlap: int) -> np.ndarray:
    """Where windows of `size` begin along an axis of `length` pixels: every size - overlap, the last pushed inside."""
    if length <= size:
        return np.zeros(1, np.int64)
    count = -(-(length - overlap) // (size - overlap))
    return np.minimum(np.arange(count) * (size - overlap), length - size)


def _windows(sizes: np.ndarray, size: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """x1, y1, x2, y2 of all windows (T, 4), row by row of each image, and how many each image has (n,)."""
    grids, grid_of = np.unique(sizes, axis=0, return_inverse=True)  # few sizes, many images
    parts = []
    for height, width in grids.tolist():
        y, x = np.meshgrid(starts(height, size, overlap), starts(width, size, overlap), indexing="ij")
        corner = np.stack((x.ravel(), y.ravel()), 1)
        parts.append(np.concatenate((corner, np.minimum(corner + size, (width, height))), 1))
    ends = np.cumsum([len(p) for p in parts])
    rows, tile_ends = gather(ends, grid_of.reshape(-1))
    return np.concatenate([np.zeros((0, 4), np.int64), *parts])[rows].astype(np.int32), np.diff(tile_ends, prepend=0)


def _cut(table: RecordTable, windows: np.ndarray, tiles_of: np.ndarray) -> tuple[RecordTable, tuple]:
    """The table of all windows; counts of boxes: cut at a border, made ignore regions, objects in no tile."""
    image = np.repeat(np.arange(len(table)), tiles_of)  # (T,)
    tile, label = _pairs(table, windows, tiles_of)
    order = np.lexsort((label, tile))
    tile, label = tile[order], label[order]
    origin = np.tile(windows[tile, :2], 2).astype(np.float32)
    whole = tiles_of[image[tile]] == 1  # as it was, to the last digit
    boxes = np.clip(table.boxes[label], windows[tile][:, [0, 1, 0, 1]], windows[tile][:, [2, 3, 2, 3]])
    boxes = np.where(whole[:, None], table.boxes[label], boxes - origin).astype(np.float32)
    # A box of COCO's may reach a fraction of a pixel out of its image: only what lies inside can be seen.
    inside = np.clip(table.boxes, 0, np.tile(table.sizes[table.image_of_label()][:, ::-1], 2))
    visible = np.where(whole, 1.0, _area(boxes) / np.maximum(_area(inside)[label], 1e-9))
    rest = (visible < MIN_VISIBLE) & ~table.ignore[label]
    cut = (visible < 1 - 1e-4) & ~table.ignore[label] & ~rest
    seen = np.bincount(label[~rest], minlength=len(table.labels)) > 0
    columns = table.label_columns(label) | {"boxes": boxes, "ignore": table.ignore[label] | rest}
    if table.polygon_points is not None:
        lengths = np.diff(columns["polygon_ends"], prepend=0)
        columns["polygon_points"] = columns["polygon_points"] - np.repeat(origin[:, :2], lengths, axis=0)
    letters, path_ends = gather(table.path_ends, image)
    sizes = (windows[:, 2:] - windows[:, :2])[:, ::-1]  # height, width
    tiled = RecordTable(
        paths=table.paths[letters], path_ends=path_ends, image_ids=table.image_ids[image],
        sizes=sizes.astype(np.int32), ends=np.cumsum(np.bincount(tile, minlength=len(windows)), dtype=np.int64),
        windows=np.where((tiles_of > 1)[image, None], windows, 0).astype(np.int32), full_sizes=table.sizes[image],
        **columns)
    return tiled, (cut.sum(), rest.sum(), (~seen & ~table.ignore).sum())


def _pairs(table: RecordTable, windows: np.ndarray, tiles_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tile and label (K,) of every pair where the tile shows some area of the label's box.

    One tile per image at a time, so that the memory is that of the labels and not of labels times tiles.
    """
    image = table.image_of_label()
    first = np.cumsum(tiles_of) - tiles_of  # (n,)
    alone = np.flatnonzero(tiles_of[image] == 1)
    tiles, labels = [first[image[alone]]], [alone]
    left = np.flatnonzero(tiles_of[image] > 1)
    for k in range(tiles_of.max(initial=0)):
        left = left[tiles_of[image[left]] > k]
        tile = first[image[left]] + k
        box, window = table.boxes[left], windows[tile]
        seen = ((np.minimum(box[:, 2:], window[:, 2:]) - np.maximum(box[:, :2], window[:, :2])) > 0).all(1)
        tiles.append(tile[seen])
        labels.append(left[seen])
    return np.concatenate(tiles), np.concatenate(labels)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 1)
