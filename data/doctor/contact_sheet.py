"""The doctor's contact sheet: images with their labels drawn, suspicious labels enlarged, like images side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from data.doctor.checks import Pair
from data.doctor.suspicious_labels import Suspects
from data.images.store import read_canonical, read_frame
from data.index import Index
from data.labels.records import Record, RecordTable
from utils.errors import printable
from utils.files import write_bytes
from utils.reporting.draw import class_name, color, draw_box
from utils.reporting.fonts import put_text

ACROSS, WIDTH, HEIGHT, STRIP = 6, 320, 240, 18  # cells in a row, pixels of a cell, and of its caption
RANDOM, SUSPICIOUS, TWINS = 12, 12, 6  # cells per split, labels per split, pairs
GREY, CROWD = 60, (160, 160, 160)
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
    rows.append(_legend(next(iter(indexes.values())).names))
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
    _draw(picture, record.boxes * scale, record, names, len(record) <= 12)
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
    _draw(picture, (record.boxes - np.tile(low, 2)) * scale, record, names, len(record) <= 12)
    draw_box(picture, ((box - np.tile(low, 2)) * scale).tolist(), (255, 255, 255), line=2)
    return _cell(picture, caption)


def _draw(picture: np.ndarray, boxes: np.ndarray, record: Record, names: Sequence[str], named: bool) -> None:
    """Boxes in the colours of their classes, with names where there are few; ignore regions in grey."""
    for box, label, ignore in zip(boxes.tolist(), record.labels.tolist(), record.ignore.tolist(), strict=True):
        word = "ignored" if ignore else class_name(names, label)
        draw_box(picture, box, CROWD if ignore else color(label), word if named else "", 1)


def _cell(picture: np.ndarray, caption: str) -> np.ndarray:
    """(HEIGHT + STRIP, WIDTH, 3): the picture in the middle of its cell, the caption above it."""
    cell = np.full((HEIGHT + STRIP, WIDTH, 3), GREY, np.uint8)
    height, width = min(picture.shape[0], HEIGHT), min(picture.shape[1], WIDTH)
    top, left = STRIP + (HEIGHT - height) // 2, (WIDTH - width) // 2
    cell[top:top + height, left:left + width] = picture[:height, :width]
    cell[:, -2:] = 0  # a line to the next one
    _text(cell[:STRIP], caption, 0.38)
    return cell


def _section(title: str, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A strip with the title, then rows of cells."""
    strip = np.zeros((STRIP + 10, ACROSS * WIDTH, 3), np.uint8)
    _text(strip[5:5 + STRIP], title, 0.5)
    blank = np.full((HEIGHT + STRIP, WIDTH, 3), GREY, np.uint8)
    full = [*cells, *[blank] * (-len(cells) % ACROSS)]
    return [strip, *(np.concatenate(full[k:k + ACROSS], axis=1) for k in range(0, len(full), ACROSS))]


def _legend(names: Sequence[str]) -> np.ndarray:
    """The colours of the classes, as many as there are colours."""
    shown = list(names[:20])
    strip = np.zeros((STRIP * 2 * math.ceil(len(shown) / 10), ACROSS * WIDTH, 3), np.uint8)
    for k, _ in enumerate(shown):
        top, left = k // 10 * STRIP * 2, k % 10 * (ACROSS * WIDTH // 10)
        strip[top + 10:top + 26, left + 6:left + 22] = color(k)
        _text(strip[top + 9:top + 9 + STRIP, left + 24:left + ACROSS * WIDTH // 10], class_name(names, k), 0.45)
    return strip


def _text(strip: np.ndarray, text: str, scale: float) -> None:
    """Write into a strip in place, cut where it ends."""
    canvas = np.ascontiguousarray(strip)
    put_text(canvas, printable(text), (4, strip.shape[0] - 5), scale, (255, 255, 255), 1)
    strip[:] = canvas
