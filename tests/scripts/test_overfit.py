"""Eight images learned by heart: forward, assignment, loss, decoding and evaluation agree with each other."""

import json
from pathlib import Path

import pytest
import yaml

import train
from data.shapes.generate import Scene, generate
from utils.reporting.run_log import read_csv

# No chance in the pictures, so that there is one thing to learn.
RECIPE = {"optimizer": "AdamW", "momentum": 0.9, "lr0": 0.004, "lrf": 0.05, "warmup_epochs": 10, "warmup_min_iters": 10,
          "warmup_bias_lr": 0.0, "clip_grad": 10.0, "weight_decay": 0.0, "mosaic": 0.0, "mixup": 0.0, "translate": 0.0,
          "scale": 0.0, "fliplr": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("name, epochs", [("yolov8n", 300), ("yolov7-tiny", 300)])
def test_eight_images_are_learned_by_heart(shared, tmp_path, name, epochs):
    coco = shared / "data/coco-tiny"
    content = json.loads((coco / "annotations/instances_train2017.json").read_text())
    # 16 px are 10 at this size: below the finest stride of 8 there is no cell that could learn an object.
    tiny = {a["image_id"] for a in content["annotations"] if a["iscrowd"] or min(a["bbox"][2:]) < 16}
    content["images"] = [image for image in content["images"] if image["id"] not in tiny][:8]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "eight.json").write_text(json.dumps(content))
    split = {"images": str(coco / "train2017"), "annotations": str(tmp_path / "eight.json")}
    flags = {"--cfg": name, "--imgsz": 416, "--batch": 8, "--epochs": epochs}
    assert learned_ap50(tmp_path, split, RECIPE, flags) > 0.9


# As RECIPE, with mean losses and a step after every batch.
MEAN_RECIPE = {**RECIPE, "lr0": 0.001, "schedule": "cosine", "loss": "mean", "nominal_batch": 0, "ema": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("name, epochs", [("retinanet-r18", 100)])
def test_eight_drawn_images_are_learned_by_heart(tmp_path, name, epochs):
    """Of 96 px, with objects that the finest level's anchors reach."""
    scene = Scene(objects=(2, 4), small=0.5, medium=0.5, min_side=16, background=0, crowd=0)
    folder = generate(tmp_path / "shapes", "train", 8, 96, 0, scene)
    split = {"images": str(folder / "images"), "annotations": str(folder / "annotations.json")}
    flags = {"--cfg": name, "--imgsz": 96, "--batch": 4, "--epochs": epochs, "--amp": "fp32"}
    assert learned_ap50(tmp_path, split, MEAN_RECIPE, flags) > 0.9


# SSD's own recipe and policy without its chance, and AdamW to be quick.
SSD_RECIPE = {"base": "ssd", "optimizer": "AdamW", "lr0": 0.001, "schedule": "cosine", "lrf": 0.05, "decay": "weights",
              "weight_decay": 0.0, "warmup_epochs": 5, "warmup_min_iters": 5, "warmup_bias_lr": 0.0, "clip_grad": 10.0,
              "distort": 0.0, "swap_channels": 0.0, "expand": 0.0, "iou_crop": "none", "fliplr": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd300-r18", "assd300-r18"])
def test_eight_drawn_images_are_learned_by_heart_by_ssd(tmp_path, name):
    """At the one size that the model takes."""
    folder = generate(tmp_path / "shapes", "train", 8, 300, 0, Scene(min_side=16, background=0, crowd=0))
    split = {"images": str(folder / "images"), "annotations": str(folder / "annotations.json")}
    assert learned_ap50(tmp_path, split, SSD_RECIPE, {"--cfg": name, "--batch": 8, "--epochs": 60}) > 0.9


# Without weight decay, crops and mirroring; the noise of denoising stays.
SET_RECIPE = {"optimizer": "AdamW", "momentum": 0.9, "lr0": 0.0005, "schedule": "cosine", "lrf": 0.05,
              "warmup_epochs": 3, "warmup_min_iters": 10, "warmup_bias_lr": 0.0, "clip_grad": 1.0, "weight_decay": 0.0,
              "loss": "mean", "nominal_batch": 0, "ema": 0.0, "policy": "detr", "shortest": [800], "crop": 0.0,
              "fliplr": 0.0}


@pytest.mark.slow
def test_a_transformer_learns_eight_drawn_images_by_heart(tmp_path):
    """Of 64 px. All terms but those of denoising, which sees other noise in each step, fall tenfold; those fall too."""
    scene = Scene(objects=(2, 4), small=0.5, medium=0.5, min_side=16, background=0, crowd=0)
    folder = generate(tmp_path / "shapes", "train", 8, 64, 0, scene)
    split = {"images": str(folder / "images"), "annotations": str(folder / "annotations.json")}
    flags = {"--cfg": "salience-detr-tiny", "--imgsz": 64, "--batch": 8, "--epochs": 100, "--amp": "fp32"}
    assert learned_ap50(tmp_path, split, SET_RECIPE, flags) > 0.9
    first, *_, last = read_csv(tmp_path / "run/results.csv")
    noised, rest = ([sum(float(v) for k, v in row.items() if k.startswith("train/") and k.startswith("train/dn_") == dn)
                     for row in (first, last)] for dn in (True, False))
    assert rest[1] < rest[0] / 10 and noised[1] < noised[0] / 1.2


def learned_ap50(place: Path, split: dict, recipe: dict, flags: dict) -> float:
    """AP50 on a split after a training on it."""
    (place / "eight.yaml").write_text(yaml.safe_dump({"path": str(place), "train": split, "val": split}))
    (place / "by-heart.yaml").write_text(yaml.safe_dump(recipe))
    words = [*(word for flag in flags.items() for word in flag), "--val-interval", flags["--epochs"], "--nosave",
             "--noplots", "--data", place / "eight.yaml", "--hyp", place / "by-heart.yaml", "--workers", 0,
             "--project", place, "--name", "run"]
    train.main(train.build_parser().parse_args(list(map(str, words))))
    return float(read_csv(place / "run/results.csv")[-1]["metrics/AP50"])
