"""The doctor's contact sheet: images with their labels drawn, suspicious labels enlarged, like images side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from data.doctor.checks import Pair
from data.doctor.suspicious_labels import Suspects
from data.images.store import read_canonical, read_frame
from data.index import Index
from data.labels.records import Record, RecordTable
from utils.files import write_bytes
from utils.reporting.draw import class_name, color, draw_box, draw_marks
from utils.reporting.layout import Text
from utils.reporting.mosaic import legend_strip, strip, titled, truth_marks
from utils.structures import Targets

ACROSS, WIDTH, HEIGHT = 6, 320, 240  # cells in a row, pixels of a cell below its caption
RANDOM, SUSPICIOUS, TWINS = 12, 12, 6  # cells per split, labels per split, pairs
GREY, COLOURS = 60, 20  # classes of the legend: as many as there are colours
SHORT = {"thin": "thin", "whole": "whole image", "stretched": "stretched", "contested": "two classes", "twice": "twice"}


def save_sheet(indexes: Mapping[str, Index], found: Mapping[str, Suspects], pairs: Sequence[Pair], path: Path,
               seed: int = 0) -> None:
    """Write the sheet as `path` (.jpg). The choice of images is random, the same for the same `seed`."""
    rows: list[np.ndarray] = []
    for split, index in indexes.items():
        picked = np.random.default_rng(seed).permutation(len(index))[:RANDOM]
        cells = [_whole(index.records[i], index.names) for i in sorted(picked.tolist())]
        rows += _section(f"{split}: {len(cells)} of {len(index)} images, drawn at random", cells)
    for split, index in indexes.items():
        cells = _suspicious(index, found[split])
        rows += _section(f"{split}: suspicious labels, enlarged", cells) if cells else []
        crowded = [_whole(index.records[i], index.names) for i in found[split].crowded[:ACROSS].tolist()]
        rows += _section(f"{split}: far more labels than others", crowded) if crowded else []
    cells = [_whole(indexes[split].records[i], indexes[split].names, f"{split} {'=' if p.exact else '~'}")
             for p in pairs[:TWINS] for split, i in (p.a, p.b)]
    rows += _section("like images: = exact copies, ~ near ones", cells) if cells else []
    names = next(iter(indexes.values())).names
    rows.append(legend_strip([(color(k), class_name(names, k)) for k in range(min(len(names), COLOURS))],
                             ACROSS * WIDTH))
    _, encoded = cv2.imencode(path.suffix, np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, 90])
    write_bytes(path, encoded.tobytes())


def _whole(record: Record, names: Sequence[str], mark: str = "") -> np.ndarray:
    """A cell with all of an image and all of its labels."""
    scale = min(WIDTH / record.width, HEIGHT / record.height)
    size = tuple(max(round(side * min(scale, 1.0)), 1) for side in (record.height, record.width))
    image = read_canonical(record, size)
    caption = f"{mark} {Path(record.path).name}  {record.width}x{record.height}  {len(record)} labels".strip()
    if image is None:
        return _cell(np.full((HEIGHT, WIDTH, 3), GREY, np.uint8), f"cannot be decoded: {caption}")
    if scale > 1:
        size = tuple(max(round(side * scale), 1) for side in (record.height, record.width))
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(image)
    _draw(picture, record.boxes * scale, record, names)
    return _cell(picture, caption)


def _suspicious(index: Index, found: Suspects) -> list[np.ndarray]:
    """Cells of the worst labels of each kind in turn."""
    table = RecordTable.from_records(index.records)
    image = table.image_of_label()
    # One of a kind per image: where two boxes lie on one place, both are in its picture.
    once = {kind: rows[np.sort(np.unique(image[rows], return_index=True)[1])] for kind, rows in found.labels.items()}
    chosen = [(kind, int(rows[k])) for k in range(SUSPICIOUS) for kind, rows in once.items() if k < len(rows)]
    return [_crop(table[int(image[row])], table.boxes[row],
                  f"{SHORT[kind]} ({class_name(index.names, int(table.labels[row]))})", index.names)
            for kind, row in chosen[:SUSPICIOUS]]


def _crop(record: Record, box: np.ndarray, word: str, names: Sequence[str]) -> np.ndarray:
    """A cell with the surroundings of one label, three times its size and 48 px at least."""
    whole = read_frame(record)
    caption = f"{word}: {Path(record.path).name}"
    if whole is None:
        return _cell(np.full((HEIGHT, WIDTH, 3), GREY, np.uint8), f"cannot be decoded: {caption}")
    middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    reach = max(sides[1] * 1.5, sides[0] * 1.5 * HEIGHT / WIDTH, 24)
    low = np.clip(np.floor(middle - (reach * WIDTH / HEIGHT, reach)), 0, None).astype(int)
    high = np.ceil(middle + (reach * WIDTH / HEIGHT, reach)).astype(int)
    part = whole[low[1]:high[1], low[0]:high[0]]
    if not part.size:
        return _cell(np.full((HEIGHT, WIDTH, 3), GREY, np.uint8), caption)
    scale = min(WIDTH / part.shape[1], HEIGHT / part.shape[0])
    size = max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1)
    picture = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    _draw(picture, (record.boxes - np.tile(low, 2)) * scale, record, names)
    draw_box(picture, ((box - np.tile(low, 2)) * scale).tolist(), (255, 255, 255), line=2)
    return _cell(picture, caption)


def _draw(picture: np.ndarray, boxes: np.ndarray, record: Record, names: Sequence[str]) -> None:
    """Boxes in the colours of their classes, ignore regions in grey."""
    targets = Targets(*(torch.from_numpy(column) for column in (record.boxes, record.labels, record.ignore)))
    draw_marks(picture, replace(truth_marks(targets, names), boxes=boxes.astype(np.float64)))


def _cell(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture in the middle of a cell of HEIGHT x WIDTH, the caption above it."""
    cell = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    height, width = min(picture.shape[0], HEIGHT), min(picture.shape[1], WIDTH)
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    cell[top:top + height, left:left + width] = picture[:height, :width]
    cell[:, -2:] = 0  # a line to the next one
    return titled(cell, caption)


def _section(title: str, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A strip with the title, then rows of cells."""
    full = [*cells, *[_cell(np.zeros((0, 0, 3), np.uint8), "")] * (-len(cells) % ACROSS)]
    return [strip(title, ACROSS * WIDTH, Text.at(0.5), ground=0),
            *(np.concatenate(full[k:k + ACROSS], axis=1) for k in range(0, len(full), ACROSS))]
