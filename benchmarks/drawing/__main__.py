"""Pictures of detections beside supervision's and a peer's: `python -m benchmarks.drawing`

The objects of a data set with made-up scores are drawn as detections, so that no program has an advantage. Measured are
the milliseconds of a picture, and how much of the small objects is drawn over. `--sheet` shows all side by side.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from benchmarks.measure import add_page_flags, heading, write_page
from benchmarks.peers import add_peer_flags, find_peer
from benchmarks.record import PROJECT, table
from benchmarks.turns import Program, Row
from data import load_index
from data.images.store import read_frame
from utils.cli import positive
from utils.errors import UserError, run_script
from utils.reporting.draw import draw_detections
from utils.reporting.mosaic import save_mosaic, titled
from utils.structures import Detections
from utils.truth import SMALL_SIDE

SECONDS = 120.0  # for an answer of the peer
WIDTH = 760  # pixels of a picture of the sheet
Draw = Callable[[np.ndarray, Detections, Sequence[str]], np.ndarray]


def by_supervision(image: np.ndarray, found: Detections, names: Sequence[str]) -> np.ndarray:
    """Its boxes and labels at the sizes that it finds best for the picture, and labels that move apart."""
    import supervision as sv

    size = image.shape[1::-1]
    line, scale = sv.calculate_optimal_line_thickness(size), sv.calculate_optimal_text_scale(size)
    rows = sv.Detections(found.boxes.numpy().astype(np.float32), confidence=found.scores.numpy(),
                         class_id=found.labels.numpy())
    words = [f"{names[label]} {score:.2f}" for label, score in zip(found.labels.tolist(), found.scores.tolist(),
                                                                   strict=True)]
    picture = sv.BoxAnnotator(thickness=line).annotate(image.copy(), rows)
    return sv.LabelAnnotator(text_scale=scale, text_thickness=line, smart_position=True).annotate(picture, rows, words)


def scenes(data: str, split: str, count: int) -> tuple[list[tuple[str, np.ndarray, Detections]], list[str]]:
    """The images of a split with most objects, each with its objects as detections; and the names of the classes."""
    index = load_index(data, split)
    records = sorted(index.records, key=lambda record: -len(record))[:count]
    found = []
    for record in records:
        image, keep = read_frame(record), ~record.ignore
        if image is None:
            raise UserError(f"{record.path}: cannot be decoded; leave it out", "corrupt-file")
        scores = np.sort(np.random.default_rng(0).uniform(0.3, 0.97, int(keep.sum())))[::-1].copy()
        found.append((record.path, image, Detections(*(torch.from_numpy(column) for column in (
            record.boxes[keep], scores.astype(np.float32), record.labels[keep])))))
    return found, index.names


def hidden(image: np.ndarray, picture: np.ndarray, boxes: np.ndarray) -> tuple[int, int]:
    """Pixels of objects with sides below `SMALL_SIDE` that a picture has drawn over, and how many there are."""
    small = boxes[np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) < SMALL_SIDE]
    inside = np.zeros(image.shape[:2], bool)
    for x1, y1, x2, y2 in np.concatenate((np.ceil(small[:, :2]), np.floor(small[:, 2:])), 1).astype(int).tolist():
        inside[max(y1, 0):y2, max(x1, 0):x2] = True
    return int((inside & (image != picture).any(2)).sum()), int(inside.sum())


def measure(found: list, names: list[str], rounds: int, peer: Program | None, folder: Path) -> list[Row]:
    """A row for each picture: of each program seconds, the picture and the hidden pixels."""
    programs: dict[str, Draw] = {"ours": draw_detections}
    if find_spec("supervision"):
        programs["supervision"] = by_supervision
    rows = []
    for k, (path, image, detections) in enumerate(found):
        pictures, seconds = {}, {name: [] for name in programs}
        for _ in range(rounds):
            for name, draw in programs.items():
                began = time.process_time()
                pictures[name] = draw(image, detections, names)
                seconds[name].append(time.process_time() - began)
            if peer:
                seconds.setdefault("peer", []).append(peer.ask(str(k), SECONDS)["seconds"])
        if peer:
            pictures["peer"] = cv2.imread(str(folder / f"peer{k}.png"))
        boxes = detections.boxes.double().numpy()
        rows.append({"name": Path(path).name, "size": image.shape[1::-1], "boxes": len(boxes), "pictures": pictures,
                     "seconds": {name: median(values) for name, values in seconds.items()},
                     "hidden": {name: hidden(image, picture, boxes) for name, picture in pictures.items()}})
    return rows


def write_sheet(rows: list[Row], path: Path) -> None:
    """All pictures, a row for each image."""
    cells = []
    for row in rows:
        for name, picture in row["pictures"].items():
            size = WIDTH, round(picture.shape[0] * WIDTH / picture.shape[1])
            shrinks = picture.shape[1] > WIDTH
            cells.append(titled(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC),
                                f"{name}: {row['name']}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mosaic(cells, len(rows[0]["pictures"]), path)
    print(f"the pictures are in {path}")


def make_page(rows: list[Row], args: argparse.Namespace, facts: Row | None) -> str:
    """The table as Markdown."""
    text, programs = heading("Pictures of detections", torch.device("cpu"), args.small), list(rows[0]["seconds"])
    cells = [[row["name"], "x".join(map(str, row["size"])), str(row["boxes"]),
              *(f"{1e3 * row['seconds'][name]:.1f}" for name in programs),
              *(_percent([row["hidden"][name]]) for name in programs)] for row in rows]
    cells.append(["all", "", str(sum(row["boxes"] for row in rows)),
                  *(f"{1e3 * sum(row['seconds'][name] for row in rows):.1f}" for name in programs),
                  *(_percent([row["hidden"][name] for row in rows]) for name in programs)])
    text += [f"The {len(rows)} images of `{Path(args.data).stem}` ({args.split}) with most objects, their truth drawn "
             f"as detections with made-up scores; milliseconds of CPU time, medians of {args.rounds} rounds in turn. "
             f"Hidden: of the pixels of objects with sides below {SMALL_SIDE} px, those that lines or captions cover."
             + (f" Peer: {facts['program']}." if facts else ""), "",
             *table(["image", "size", "boxes", *(f"{name}, ms" for name in programs),
                     *(f"hidden by {name}" for name in programs)], cells)]
    return "\n".join(text) + "\n"


def _percent(counts: list[tuple[int, int]]) -> str:
    covered, all_ = (sum(part) for part in zip(*counts, strict=True))
    return f"{covered / all_:.1%}" if all_ else "-"


def main(args: argparse.Namespace) -> None:
    """Draw, measure, write the table and the sheet."""
    if args.small:
        args.images, args.rounds = 2, 1
    python = find_peer(args)
    found, names = scenes(args.data, args.split, args.images)
    with tempfile.TemporaryDirectory() as folder:
        peer = None
        try:
            if python:
                items = []
                for k, (_, image, detections) in enumerate(found):
                    files = {key: str(Path(folder) / f"{key}{k}.png") for key in ("image", "peer")}
                    cv2.imwrite(files["image"], image)
                    columns = (detections.boxes, detections.scores[:, None], detections.labels[:, None].float())
                    items.append({**files, "rows": torch.cat(columns, 1).tolist()})
                script = PROJECT / "benchmarks" / "drawing" / "peer_ultralytics.py"
                peer = Program("ultralytics", [python, str(script)], {"names": names, "pictures": items})
                peer.start(Path(folder))
                peer.wait_ready(SECONDS)
            rows = measure(found, names, args.rounds, peer, Path(folder))
        finally:
            if peer:
                peer.stop()
    write_page("drawing", torch.device("cpu"), args, make_page(rows, args, peer and peer.facts))
    if args.sheet:
        write_sheet(rows, Path(args.sheet))


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drawing", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_peer_flags(add)
    add("--data", default="shapes", help="data set whose objects are drawn")
    add("--split", default="val", choices=("train", "val", "test"), help="its split")
    add("--images", type=positive, default=8, help="those with most objects")
    add("--rounds", type=positive, default=5, help="pictures of each program")
    add("--sheet", default="", metavar="FILE", help="write all pictures side by side")
    add_page_flags(add, "drawing")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
