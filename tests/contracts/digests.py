"""Pins what samples, trainings and evaluations give: a SHA-256 of each; `digests.json` holds the expected ones.

    python -m tests.contracts.digests                    compare with digests.json and name those that differ
    python -m tests.contracts.digests --write [FILE]     write them to digests.json, or to FILE
    python -m tests.contracts.digests --folder FOLDER    keep what the runs have written, to look at what differs

A commit that changes samples or losses on purpose writes digests.json anew and says why.

Legend: B images in a batch, H, W pixels of the input frame.
"""

import argparse
import hashlib
import json
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from data import load_index
from data.augment.policies import policy_type
from data.loading.build import eval_loader, train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from data.sampling import image_weights, oversample_small, repeat_rare
from data.shapes.generate import Scene, render
from data.tiles import tile_index
from tests.running import script
from tests.tiny import tiny_model
from utils.checkpoint import save_checkpoint
from utils.structures import Batch

FILE = Path(__file__).with_suffix(".json")
# Height and width of the scenes, in turn: smaller, larger and more than twice as large as the frame; tall and wide.
SIZES = ((240, 320), (320, 200), (480, 640), (97, 131), (160, 160), (200, 360))
COUNTS = {"train": 12, "val": 7}
CLASSES = ("circle", "square", "triangle", "star", "cross")
IMGSZ, BATCH, TILE = 160, 5, 128
EPOCHS = 2
CACHES, WORKERS = (None, "ram", "disk"), (0, 1, 2)

STILL = {"mosaic": 0.0, "translate": 0.0, "scale": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.0}
MOSAIC, MIXUP = {"mosaic": 1.0}, {"mosaic": 1.0, "mixup": 1.0}
# Each setting of a policy at a strong value, with what it needs to have an effect; all others change nothing.
ALONE: dict[str, dict[str, Any]] = {
    "mosaic": MOSAIC, "mosaic9": {**MOSAIC, "mosaic9": 1.0}, "mixup": MIXUP, "mixup_alpha": {**MIXUP, "mixup_alpha": 1},
    "copy_paste": {"copy_paste": 1.0}, "copy_paste_small": {**MOSAIC, "copy_paste_small": 1.0},
    "degrees": {"degrees": 45.0}, "translate": {"translate": 0.4},
    "scale": {"scale": 0.9}, "scale_extra": {"scale_extra": 0.8}, "shear": {"shear": 25.0},
    "perspective": {"perspective": 0.001}, "hsv_h": {"hsv_h": 0.5}, "hsv_s": {"hsv_s": 0.9}, "hsv_v": {"hsv_v": 0.9},
    "fliplr": {"fliplr": 1.0}, "flipud": {"flipud": 1.0}, "min_side": {"scale": 0.9, "min_side": 30.0},
    "min_area": {"translate": 0.4, "min_area": 0.95}, "max_aspect": {"scale": 0.9, "max_aspect": 1.2},
    "fill": {"translate": 0.4, "fill": 30}}
TOGETHER = {"mosaic": 0.8, "mosaic9": 0.4, "mixup": 0.5, "mixup_alpha": 8.0, "copy_paste": 0.6, "degrees": 20.0,
            "translate": 0.2, "scale": 0.9, "scale_extra": 0.1, "shear": 8.0, "perspective": 0.0005, "hsv_h": 0.1,
            "flipud": 0.5, "min_area": 0.01, "max_aspect": 20.0}
# The same of the policy ssd.
SSD_STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "distort": 1.0, "swap_channels": 0.0,
             "expand": 0.0, "iou_crop": "none", "fliplr": 0.0}
EXPAND, CROP = {"expand": 1.0}, {"iou_crop": "code"}
SSD_ALONE: dict[str, dict[str, Any]] = {
    "brightness": {"brightness": 60.0}, "contrast": {"contrast": 0.9}, "saturation": {"saturation": 0.9},
    "hue": {"hue": 90.0}, "distort": {"brightness": 60.0, "distort": 0.7}, "swap_channels": {"swap_channels": 1.0},
    "expand": EXPAND, "expand_ratio": {**EXPAND, "expand_ratio": 2.0}, "fill": {**EXPAND, "fill": (9, 99, 199)},
    "iou_crop": CROP, "smallest_crop": {**CROP, "smallest_crop": 0.6}, "fliplr": {"fliplr": 1.0}}


@dataclass(frozen=True)
class Setting:
    """How training batches are made: the augmentation's changes of its defaults, and what flags of train.py ask for.

    ranks: of how many processes this is the last. device: drawn by the renderer of `--cache gpu`, on the CPU.
    """

    augment: dict[str, Any] = field(default_factory=dict)
    policy: str = "yolo"
    polygons: bool = False
    rect: bool = False
    tile: int = 0
    weights: bool = False
    closed: bool = False
    seed: int = 0
    ranks: int = 1
    device: bool = False


SETTINGS = {
    **{name: Setting({**STILL, **words}, polygons=name == "copy_paste") for name, words in ALONE.items()},
    **{f"ssd {name}": Setting({**SSD_STILL, **words}, "ssd") for name, words in SSD_ALONE.items()},
    "nothing": Setting(STILL), "defaults": Setting(), "another seed": Setting(seed=1),
    "copy_paste of boxes": Setting({**STILL, "copy_paste": 1.0}), "all": Setting(TOGETHER, polygons=True),
    "rect": Setting(rect=True), "tiles": Setting(tile=TILE), "weights": Setting(weights=True),
    "close_mosaic": Setting(TOGETHER, polygons=True, closed=True), "last of two processes": Setting(ranks=2),
    "device: defaults": Setting(device=True), "device: all": Setting(TOGETHER, polygons=True, device=True),
    "device: copy_paste_small": Setting({**MOSAIC, "copy_paste_small": 1.0}, device=True),
    "device: rect": Setting(rect=True, device=True), "ssd": Setting(policy="ssd"),
    "ssd tiles": Setting(policy="ssd", tile=TILE), "device: ssd": Setting(policy="ssd", device=True)}
EVALUATIONS: dict[str, dict[str, Any]] = {
    "square": {"imgsz": IMGSZ}, "rect": {"imgsz": IMGSZ, "rect": True}, "wide": {"imgsz": (96, 192)}}

# Flags of train.py; `strong.yaml` is a recipe that `run_digests` writes.
TRAININGS: dict[str, tuple[object, ...]] = {
    "yolov8n-assn": ("--cfg", "yolov8n-assn", "--hyp", "strong.yaml", "--close-mosaic", 1),
    "yolov7-tiny": ("--cfg", "yolov7-tiny", "--tile", TILE, "--oversample-small", "--rare-classes", 0.9, "--cos-lr"),
    "yolov3-tiny-sca": ("--cfg", "yolov3-tiny", "--box-loss", "sca", "--image-weights", "--rect", "--cache", "ram"),
    "yolov5n-ssfpn": ("--cfg", "yolov5n", "--neck", "ssfpn", "--multi-scale", "--label-smoothing", 0.1,
                      "--optimizer", "SGD", "--cache", "gpu")}
LOW = ("--conf-thres", 0.0001)
# Flags of val.py and detect.py, for weights that a training has left and for those of an untrained model whose scores
# spread: a training this short finds nearly nothing.
EVALUATED: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "yolov5n-ssfpn": ((*LOW, "--rect"), (*LOW, "--max-det", 30)),
    "untrained": (("--imgsz", 96, "--max-det", 100), ("--imgsz", 96, "--agnostic-nms", "--classes", "circle", "star"))}
OF_THE_MACHINE = ("time", "images_per_s", "memory_gb")  # columns of results.csv


def environment() -> dict[str, str]:
    """What digests depend on beside the code; those of samples not on `processor`, whose caches decide how sums of
    convolutions are split."""
    return {"torch": torch.__version__, "numpy": np.__version__, "cv2": cv2.__version__,
            "machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(), "processor": processor()}


def processor() -> str:
    """The processor's vendor, family and model as Linux has them, elsewhere what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    words = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    return " ".join(words.get(key, "?") for key in ("vendor_id", "cpu family", "model"))


def make_data(folder: Path) -> Path:
    """Built-in scenes of several sizes with crowds, in COCO's form with octagons as outlines; returns their YAML."""
    (folder / "annotations").mkdir(parents=True)
    for split, count in COUNTS.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            height, width = SIZES[number % len(SIZES)]
            picture, objects = render(0, split, number, (height, width), Scene(objects=(2, 12), crowd=0.2))
            name = f"{number:06d}.jpg"
            assert cv2.imwrite(str(folder / split / name), picture)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for found in objects:
                outline = {} if found["iscrowd"] else {"segmentation": [octagon(*found["bbox"])]}
                annotations.append({"id": len(annotations) + 1, "image_id": number, **found, **outline})
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    splits = {split: {"images": split, "annotations": f"annotations/{split}.json"} for split in COUNTS}
    path = folder / "scenes.yaml"
    path.write_text(yaml.safe_dump({"path": str(folder), **splits}), encoding="utf-8")
    return path


def octagon(left: float, top: float, width: float, height: float) -> list[float]:
    """x1, y1, x2, y2, ... of the box with its corners cut off."""
    ends, cuts = (0.0, 1.0), (0.25, 0.75)
    corners = [(x, y) for x in ends for y in cuts] + [(x, y) for x in cuts for y in ends]
    corners.sort(key=lambda corner: np.arctan2(corner[1] - 0.5, corner[0] - 0.5))
    return [round(v, 2) for x, y in corners for v in (left + x * width, top + y * height)]


def training_batches(data: Path, setting: Setting, cache: str | None = None, workers: int = 0) -> Iterator[Batch]:
    """The batches of some epochs, one epoch after the other."""
    index = load_index(data, "train", polygons=setting.polygons)
    index = tile_index(index, setting.tile) if setting.tile else index
    nc, records, weights = len(index.names), index.records, None
    if setting.weights:
        weights = oversample_small(records, 3.0) * repeat_rare(records, nc, 0.5)
    config = LoaderConfig(
        BATCH, workers=workers, seed=setting.seed, rank=setting.ranks - 1, world=setting.ranks,
        cache="gpu" if setting.device else cache, device="cpu", rect=setting.rect)
    loader = train_loader(index, IMGSZ, policy_type(setting.policy)(**setting.augment), config, weights)
    if setting.closed:
        loader.close_mosaic()
    for epoch in range(EPOCHS):
        if weights is not None and epoch:
            loader.set_weights(weights * image_weights(records, nc, np.linspace(0.1, 0.9, nc)))
        loader.set_epoch(epoch)
        yield from loader


def evaluation_batches(data: Path, imgsz: int | tuple[int, int], rect: bool = False, cache: str | None = None,
                       workers: int = 0) -> Loader:
    """The batches of a validation."""
    return eval_loader(load_index(data, "val"), imgsz, LoaderConfig(3, workers=workers, rect=rect, cache=cache))


def digest_of_batches(batches: Iterable[Batch]) -> str:
    """Of pixels, boxes, labels, ignore regions, padding, ids and letterboxes."""
    found = hashlib.sha256()
    for batch in batches:
        targets = batch.targets
        for array in (batch.images, targets.boxes, targets.labels, targets.ignore, targets.valid):
            add_array(found, array)
        found.update(repr([[int(number) for number in batch.image_ids],
                           [(*box.original, *box.input, *map(float, box.scale), *box.pad) for box in batch.letterboxes]]
                          ).encode())
    return found.hexdigest()


def add_array(digest: "hashlib._Hash", array: torch.Tensor | np.ndarray) -> None:
    """Type, shape and values, in the order of the axes whatever that in memory is."""
    array = np.ascontiguousarray(array)
    digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and OpenCV compute with one thread each."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def sample_digests(data: Path) -> dict[str, str]:
    """Of each setting's training batches, and of evaluation batches, made by this process with nothing cached."""
    with one_thread():
        trained = {f"train: {name}": digest_of_batches(training_batches(data, s)) for name, s in SETTINGS.items()}
        held = {f"val: {name}": digest_of_batches(evaluation_batches(data, **e)) for name, e in EVALUATIONS.items()}
    return {**trained, **held}


def run_digests(folder: Path, data: Path) -> dict[str, str]:
    """Of short trainings by train.py, and of what val.py and detect.py find."""
    recipe = {"base": "yolov8", "mixup": 0.5, "copy_paste": 0.5, "degrees": 10.0, "mosaic": 0.8}
    (folder / "strong.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    found = {}
    for name, words in TRAININGS.items():
        words = (folder / word if word == "strong.yaml" else word for word in words)
        script("train", "--data", data, "--epochs", 2, "--batch-size", 4, "--imgsz", 64, "--workers", 0, "--amp",
               "fp32", "--device", "cpu", "--noplots", "--project", folder / "train", "--name", name, *words)
        found.update(training_digests(folder / "train" / name, f"train.py {name}: "))
    untrained = folder / "train/untrained/weights/best.pt"
    untrained.parent.mkdir(parents=True)
    with one_thread(), torch.random.fork_rng():
        model = tiny_model("yolov8n", list(CLASSES))
    save_checkpoint({"config": model.config, "names": list(model.names), "model": model.state_dict()}, untrained)
    for name, words in EVALUATED.items():
        found.update(evaluation_digests(folder, data, name, *words))
    return found


def evaluation_digests(folder: Path, data: Path, name: str, val_words: tuple[object, ...],
                       detect_words: tuple[object, ...]) -> dict[str, str]:
    """Of the files that val.py and detect.py write with the weights of a training."""
    common = ("--weights", folder / f"train/{name}/weights/best.pt", "--device", "cpu", "--name", name, "--save-json",
              "--save-txt", "--save-conf")
    script("val", *common, "--data", data, "--workers", 0, "--noplots", "--project", folder / "val", *val_words)
    script("detect", *common, "--source", data.parent / "val", "--project", folder / "detect", *detect_words)
    held, seen = folder / "val" / name, folder / "detect" / name
    pictures = hashlib.sha256()
    for path in sorted(seen.glob("*.jpg")):
        add_array(pictures, cv2.imread(str(path)))
    return {f"val.py {name}: metrics.txt": digest_of_numbers(held / "metrics.txt", data),
            f"val.py {name}: predictions.json": digest_of_predictions(held / "predictions.json"),
            f"val.py {name}: labels": digest_of_texts(held / "labels"),
            f"detect.py {name}: predictions.json": digest_of_predictions(seen / "predictions.json"),
            f"detect.py {name}: labels": digest_of_texts(seen / "labels"),
            f"detect.py {name}: pictures": pictures.hexdigest()}


def training_digests(folder: Path, prefix: str) -> dict[str, str]:
    """Of the numbers on the way and the weights at the end."""
    rows = [line.split(",") for line in (folder / "results.csv").read_text(encoding="utf-8").splitlines()]
    kept = [k for k, name in enumerate(rows[0]) if name.strip() not in OF_THE_MACHINE]
    table = "\n".join(",".join(row[k].strip() for k in kept) for row in rows)
    found = {f"{prefix}results.csv": hashlib.sha256(table.encode()).hexdigest()}
    for name in ("last", "best"):
        weights = hashlib.sha256()
        for key, value in torch.load(folder / f"weights/{name}.pt", weights_only=True)["model"].items():
            weights.update(key.encode())
            add_array(weights, value)
        found[f"{prefix}{name}.pt"] = weights.hexdigest()
    return found


def digest_of_numbers(path: Path, data: Path) -> str:
    """Of all numbers with a decimal point from the table on, which names the data's folder; not of what val.py says
    before it of the file, its date and the settings."""
    _, _, table = path.read_text(encoding="utf-8").replace(str(data.parent), "").partition("Class")
    numbers = re.findall(r"-?\d+\.\d+", table)
    assert numbers, f"{path} holds no numbers"
    return hashlib.sha256(" ".join(numbers).encode()).hexdigest()


def digest_of_predictions(path: Path) -> str:
    """Of the rows in their order; of a picture's path the name alone counts."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert rows, f"{path} holds no detections"
    rows = [{key: Path(value).name if key == "file_name" else value for key, value in row.items()} for row in rows]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def digest_of_texts(folder: Path) -> str:
    """Of all text files, names and content."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    assert any(texts.values()), f"{folder} holds no detections"
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def expected() -> dict[str, dict[str, str]]:
    """`environment`, `samples` and `runs` of digests.json."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def differing(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Names of the digests that are not equal, or that only one of the two has."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def main(args: argparse.Namespace) -> int:
    """Compare or write; returns the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        data = make_data(folder.resolve() / "scenes")
        found = {"environment": environment(), "samples": sample_digests(data), "runs": run_digests(folder, data)}
    if args.write:
        args.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found['samples']) + len(found['runs'])} digests in {args.write}")
        return 0
    wrong = [f"{part}: {name}" for part, wanted in expected().items() for name in differing(found[part], wanted)]
    print("\n".join(["these differ:", *wrong]) if wrong else "all digests are equal")
    return bool(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", nargs="?", const=FILE, type=Path, metavar="FILE", help="default of FILE: the JSON")
    parser.add_argument("--folder", type=Path, help="a new folder for the data and what the runs write")
    sys.exit(main(parser.parse_args()))
