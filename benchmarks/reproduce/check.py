"""Does a row start and learn? Ten optimiser steps of its trainings by train.py on a few real images, at a small size.

Model, head, neck, loss, augmentation and optimiser are the row's. Changed are the data (CHECK_DATA, with their own
classes), the size, the batch, and that every batch is a step: `nominal_batch: 0`, no epochs without mosaic. Files that
the row starts from are left out. Models of one size keep it.
"""

import csv
import json
import math
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import PROJECT, last_line, write_whole
from benchmarks.reproduce.commands import Place, python_command
from benchmarks.reproduce.rows import Row, words_of
from data.data_yaml import read_source
from data.formats import voc
from models.catalogue import resolve
from utils.errors import UserError

STEPS, VAL_IMAGES = 10, 4
# What stands for a row's data on a machine without it.
CHECK_DATA = {"coco": "coco-tiny", "seadronessee": "coco-tiny", "voc0712": "bccd", "voc07++12": "bccd"}
LIMIT = 1200.0  # seconds of one training


def as_checked(row: Row, data: str = "") -> Row:
    """The row on the data of its check; rows of the same trainings then have one key. data: instead of CHECK_DATA's."""
    chosen = data or CHECK_DATA.get(row.data, row.data)
    return replace(row, stages=tuple({**stage, "data": chosen} for stage in row.stages), needs={})


def check(row: Row, place: Place, imgsz: int, batch: int) -> dict[str, Any]:
    """Run the check of a row that `as_checked` gave: {"seconds", "trainings": [{"losses", "AP", ...}], ...}.

    Raises `UserError` where a training fails, a loss is not finite, or no validated checkpoint is left.
    """
    config = resolve(row.cfg)
    fixed = (config.get("frame") or {}).get("size")
    folder = place.work / "check" / row.key
    data = write_part(row.data, folder / "data", STEPS * batch)
    trainings, began = [], time.monotonic()
    for number, stage in enumerate(row.stages):
        recipe = folder / f"recipe{number + 1}.yaml"
        content = {"base": stage.get("hyp") or config["recipe"], "nominal_batch": 0, "close_mosaic": 0}
        write_whole(recipe, yaml.safe_dump(content))
        own = folder / f"train{number + 1}"
        flags = {key: value for key, value in stage.items() if key != "sync_bn"}
        flags |= {"data": str(data), "hyp": str(recipe), "epochs": 1, "batch_size": batch, "workers": 0,
                  "noplots": True, "project": str(own.parent), "name": own.name, "exist_ok": True}
        flags["imgsz"] = fixed or imgsz
        if number:
            flags["weights"] = str(folder / f"train{number}" / "weights" / "last.pt")
        device = ["--device", place.device] if place.device else []
        _train([*python_command(1), "train.py", *words_of(flags), *device], own)
        trainings.append(look(own))
    for number in range(len(row.stages)):  # they are large, and of no use
        shutil.rmtree(folder / f"train{number + 1}" / "weights")
    return {"key": row.key, "data": row.data, "imgsz": fixed[0] if fixed else imgsz, "batch": batch,
            "train_seconds": round(time.monotonic() - began, 1), "trainings": trainings}


def _train(words: list[str], folder: Path) -> None:
    """train.py, its output into a log beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(words, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                  timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            raise UserError(f"ten steps took more than {LIMIT:.0f} s; see {log}", "timeout") from None
    if code:
        raise UserError(f"train.py ended with code {code}: {last_line(log.read_text(errors='replace'))} (see {log})",
                        "command-failed")


def look(folder: Path) -> dict[str, Any]:
    """What a checked training has left: its mean losses, which must be finite, parameters, and AP of its checkpoint."""
    if not (folder / "weights" / "best.pt").is_file():
        raise UserError(f"{folder}: no weights/best.pt", "missing-output")
    with (folder / "results.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    losses = {name.removeprefix("train/"): float(value) for name, value in row.items() if name.startswith("train/")}
    skipped = float(row.get("skipped_steps") or 0)
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong or not losses or skipped:
        raise UserError(f"{folder}: " + (f"losses that are not finite: {', '.join(wrong)}" if wrong else
                                         f"{skipped:g} steps skipped" if losses else "no losses written"), "not-finite")
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {"losses": losses, "parameters": content["run"]["parameters"], "AP": content["protocols"][0]["values"]["AP"]}


def write_part(data: str, folder: Path, images: int) -> Path:
    """The YAML of a part of a data set in COCO's or VOC's form: the first `images` of train with an object, and
    VAL_IMAGES of val, from where they lie. Raises `UserError` where there are not so many."""
    content: dict[str, Any] = {}
    for split, count in (("train", images), ("val", VAL_IMAGES)):
        source = read_source(data, split)
        if source.format == "coco":
            content[split] = _coco_part(source.entries[0], source.image_folders[0], folder / f"{split}.json", count)
        elif source.format == "voc":
            pairs = voc.inputs(source)[len(source.entries):]
            lines = [f"{image} {xml}" for image, xml in zip(pairs[::2], pairs[1::2], strict=True)][:count]
            content |= {"format": "voc", "names": source.names, split: str(folder / f"{split}.txt")}
            _enough(data, split, len(lines), count)
            write_whole(folder / f"{split}.txt", "\n".join(lines) + "\n")
        else:
            raise UserError(f"--data {data}: a part is taken of data in COCO's or VOC's form, not {source.format}",
                            "bad-value")
    path = folder / "data.yaml"
    write_whole(path, yaml.safe_dump(content, sort_keys=False))
    return path


def _coco_part(annotations: Path, images: Path, path: Path, count: int) -> dict[str, str]:
    """Write the part of a COCO file; returns the entry of its split."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    shown = {row["image_id"] for row in content["annotations"] if not row.get("iscrowd")}
    kept = [image for image in content["images"] if image["id"] in shown][:count]
    _enough(str(annotations), "", len(kept), count)
    ids = {image["id"] for image in kept}
    part = {"images": kept, "categories": content["categories"],
            "annotations": [row for row in content["annotations"] if row["image_id"] in ids]}
    write_whole(path, json.dumps(part))
    return {"images": str(images), "annotations": str(path)}


def _enough(data: str, split: str, there: int, wanted: int) -> None:
    if there < wanted:
        raise UserError(f"{data} {split}: {there} images with objects, {wanted} are needed; lower --batch-size",
                        "too-few-images")
