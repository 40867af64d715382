"""How long detect.py takes from its start to its last result: python -m benchmarks.detecting [--peer ultralytics]

Start-up (`--help`, one picture), a folder of pictures and a video, each as a whole process, the sides in turn with the
same weights (untrained YOLOv8n) and the same least score, with which some ten boxes an image are drawn. `--busy 2`
does it beside two programs that compute all the time.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch

from benchmarks.detecting.contest import busy, cells, in_turn, link_pictures
from benchmarks.measure import add_page_flags, heading, write_page
from benchmarks.peers import add_peer_flags, find_peer
from benchmarks.record import PROJECT, table
from data.shapes.generate import Scene, render
from engine.inference.runtimes.open import load_runtime
from engine.inference.sources import is_image, open_source
from models import build_model, load_model
from utils.checkpoint import save_checkpoint
from utils.cli import positive
from utils.errors import UserError, run_script
from utils.select import SelectConfig

BOXES, IOU, MOST = 10, 0.7, 300  # boxes an image that are aimed at, and the thresholds of both sides
SIZE, FPS = (480, 640), 25


def make_pictures(given: str, count: int, folder: Path) -> None:
    """So many pictures: of a folder, again from its first where it has less, or of the built-in scenes."""
    if given:
        paths = sorted(path for path in Path(given).iterdir() if is_image(path))
        if not paths:
            raise UserError(f"--source {given}: holds no pictures; give a folder of them", code="no-images")
        link_pictures([paths[k % len(paths)] for k in range(count)], folder)
        return
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), render(0, "val", number, SIZE, Scene())[0])


def make_video(pictures: Path, frames: int, path: Path) -> None:
    """The pictures as an mp4 of one size."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE[::-1])
    images = [cv2.resize(frame.image, SIZE[::-1]) for frame in open_source(str(pictures))]
    for number in range(frames):
        writer.write(images[number % len(images)])
    writer.release()


def make_weights(python: str, pictures: Path, folder: Path) -> tuple[Path, Path, str]:
    """Weights of ours, the same as the peer's file, and the peer's version; without a peer random ones."""
    ours, theirs, version = folder / "ours.pt", folder / "peer.pt", ""
    if python:
        script = PROJECT / "benchmarks" / "detecting" / "peer_ultralytics.py"
        made = subprocess.run([python, str(script), str(pictures), str(theirs)], capture_output=True, text=True,
                              cwd=folder, check=True)
        version = made.stdout.split()[-1]
        model = load_model(theirs)
    else:
        torch.manual_seed(0)
        model = build_model("yolov8n")
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, ours)
    return ours, theirs, version


def least_score(weights: Path, pictures: Path) -> tuple[float, float]:
    """The score with which the images have `BOXES` boxes on average, and how many they have."""
    runtime, found = load_runtime(weights, "cpu"), []
    for frame in list(open_source(str(pictures)))[::4]:
        placed, _ = runtime.prepare(frame.image, (640, 640))
        found.append(runtime.predict(placed))
    counts = {conf: sum(len(runtime.select(*raw, SelectConfig(conf, IOU, MOST))[0]) for raw in found) / len(found)
              for conf in (k / 50 for k in range(5, 50))}
    conf = min(counts, key=lambda value: abs(counts[value] - BOXES))
    return conf, counts[conf]


def commands(python: str, weights: Sequence[Path], conf: float, source: Path, folder: Path) -> dict[str, list[str]]:
    """The command of each side for a source."""
    found = {"ours": [sys.executable, "detect.py", "--weights", str(weights[0]), "--source", str(source), "--device",
                      "cpu", "--conf-thres", str(conf), "--iou-thres", str(IOU), "--max-det", str(MOST), "--project",
                      str(folder / "ours")]}
    if python:
        found["peer"] = [str(Path(python).with_name("yolo")), "detect", "predict", f"model={weights[1]}",
                         f"source={source}", f"conf={conf}", f"iou={IOU}", f"max_det={MOST}", "device=cpu",
                         f"project={folder / 'peer'}"]
    return found


def measure(args: argparse.Namespace, python: str, folder: Path) -> list[str]:
    """The lines of the page."""
    pictures, video = folder / "pictures", folder / "video.mp4"
    make_pictures(args.source, args.images, pictures)
    make_video(pictures, args.images, video)
    ours, theirs, version = make_weights(python, pictures, folder)
    conf, boxes = least_score(ours, pictures)
    environment = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    sides = {"ours": [sys.executable, "detect.py", "--help"]}
    if python:
        sides["peer"] = [str(Path(python).with_name("yolo")), "help"]
    first = sorted(pictures.iterdir())[0]
    works = {"`--help`": sides,
             **{name: commands(python, (ours, theirs), conf, source, folder) for name, source in (
                 ("one picture", first), ("folder", pictures), ("video", video))}}
    with busy(args.busy):
        costs = {name: in_turn(sides, environment, args.rounds) for name, sides in works.items()}
    for name, found in costs.items():
        print(name, *cells(found))
    head = ["", *(f"{side}, {unit}" for side in sides for unit in ("s", "CPU s")), *["peer / ours"] * bool(python)]
    rates = ["images per second after the start",
             *(f"{side}, {unit}" for side in sides for unit in ("images/s", "CPU s of the run")),
             *["ours / peer"] * bool(python)]
    peer = f"The peer is Ultralytics {version}, by its command line. " if python else ""
    beside = f" beside {args.busy} programs that compute all the time" if args.busy else ""
    return [f"{peer}Whole processes{beside}, {args.images} images (pictures of "
            f"{args.source or 'the built-in scenes'}) at 640, batch 1, pictures with boxes written; "
            f"score {conf:g}, {boxes:.1f} boxes an image; medians of {args.rounds} runs in turn after one of each.",
            "", *table(head, [[name, *cells(found)] for name, found in costs.items()]), "",
            "The same without what one picture takes:", "",
            *table(rates, [[name, *cells(costs[name], costs["one picture"], args.images - 1)]
                           for name in ("folder", "video")]), ""]


def main(args: argparse.Namespace) -> None:
    """Measure, then write the page."""
    if args.small:
        args.images, args.rounds = 3, 1
    python = find_peer(args)
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(args, python, Path(folder))
    name = "detect_busy" if args.busy else "detect"
    page = heading("detect.py from its start to its last result", torch.device("cpu"), args.small) + lines
    write_page(name, torch.device("cpu"), args, "\n".join(page))


def build_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detecting", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_peer_flags(add)
    add("--source", default="", metavar="FOLDER", help="pictures; default: built-in scenes")
    add("--images", type=positive, default=80, help="pictures, and frames of the video")
    add("--rounds", type=positive, default=5, help="runs of each command")
    add("--busy", type=int, default=0, metavar="N", help="programs that compute all the time beside them")
    add_page_flags(add, "detect")
    return parser


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    run_script(main, build_parser())
