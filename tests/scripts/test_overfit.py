"""Eight real images learned by heart: forward, assignment, loss, decoding and evaluation agree with each other."""

import json

import pytest
import yaml

import train
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
    (tmp_path / "eight.yaml").write_text(yaml.safe_dump({"path": str(tmp_path), "train": split, "val": split}))
    (tmp_path / "by-heart.yaml").write_text(yaml.safe_dump(RECIPE))
    words = ["--cfg", name, "--data", tmp_path / "eight.yaml", "--hyp", tmp_path / "by-heart.yaml", "--imgsz", 416,
             "--batch", 8, "--epochs", epochs, "--val-interval", epochs, "--nosave", "--noplots", "--workers", 0,
             "--project", tmp_path, "--name", "run"]
    train.main(train.build_parser().parse_args(list(map(str, words))))
    assert float(read_csv(tmp_path / "run/results.csv")[-1]["metrics/AP50"]) > 0.9
