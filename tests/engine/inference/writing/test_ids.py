"""predictions.json of detect.py and val.py name images and classes alike."""

import json
import shutil

import cv2
import pytest
import yaml

import detect
import val
from data.shapes.generate import Scene, render
from tests.refusals import refused
from tests.tiny import NAMES, tiny_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A COCO data set whose ids are neither names nor positions, a checkpoint trained on it, and pictures beside it."""
    root = tmp_path_factory.mktemp("sea")
    images = [{"id": 1000 - k, "file_name": f"{'ab'[k % 2]}/{k}.png", "height": 64, "width": 64} for k in range(4)]
    for k, row in enumerate(images):
        path = root / "images" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), render(0, "val", k, (64, 64), Scene())[0])
    shutil.copy(root / "images/a/0.png", root.parent / "7.png")
    annotations = [{"id": k + 1, "image_id": row["id"], "category_id": 40, "bbox": [1, 1, 20, 20], "area": 400,
                    "iscrowd": 0} for k, row in enumerate(images)]
    categories = [{"id": 40 + 3 * k, "name": name} for k, name in enumerate([NAMES[1], NAMES[0], NAMES[2]])]
    for split, rows in (("val", images[:3]), ("train", images[3:])):
        content = {"images": rows, "categories": categories,
                   "annotations": [a for a in annotations if a["image_id"] in {row["id"] for row in rows}]}
        (root / f"{split}.json").write_text(json.dumps(content))
    data = root / "sea.yaml"
    data.write_text(yaml.safe_dump({"path": str(root), **{split: {"images": "images", "annotations": f"{split}.json"}
                                                          for split in ("train", "val")}}))
    weights = tiny_checkpoint(root / "best.pt")
    stored = load_checkpoint(weights)
    stored["config"]["trained"] = {"data": str(data), "imgsz": [64]}
    save_checkpoint(stored, root / "trained.pt")
    return root


def run(script, *words):
    return script.main(script.build_parser().parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def known(places):
    """What val.py writes."""
    run(val, "--weights", places / "best.pt", "--data", places / "sea.yaml", "--save-json", "--img", 64, "--device",
        "cpu", "--conf-thres", 0.3, "--iou-thres", 0.45, "--workers", 0, "--noplots", "--project", places / "val")
    return json.loads((places / "val" / "exp" / "predictions.json").read_text())


def detected(places, source, *flags, weights="best.pt"):
    """Rows by image and class, without numbers that depend on batches."""
    folder = run(detect, "--weights", places / weights, "--source", source, "--nosave", "--save-json", "--img", 64,
                 "--project", places / "out", "--device", "cpu", *flags)
    return json.loads((folder / "predictions.json").read_text())


@pytest.mark.parametrize("flags, weights", [(["--data", "sea.yaml"], "best.pt"), ([], "trained.pt")])
def test_val_and_detect_call_images_and_classes_alike(places, known, capsys, flags, weights):
    flags = [word if word.startswith("--") else places / word for word in flags]
    listing = places / "list.txt"
    listing.write_text("images/a/0.png\nimages/b/1.png\nimages/a/2.png\n")
    found = detected(places, listing, "--conf", 0.3, *flags, weights=weights)
    assert "has the ids of" in capsys.readouterr().out

    def best(rows):  # val.py lets a box have several classes and pads differently, so that the lists are not the same
        ranked = sorted(rows, key=lambda row: row["score"])
        return {row["image_id"]: row["category_id"] for row in ranked}

    assert best(found) == best(known) and set(best(found)) == {998, 999, 1000}
    assert {row["file_name"] for row in found} == {"a/0.png", "b/1.png", "a/2.png"}
    by_name = {NAMES[1]: 40, NAMES[0]: 43, NAMES[2]: 46}
    assert all(by_name[row["category"]] == row["category_id"] for row in found) and len(found) > 3


def test_images_of_other_splits_and_of_none(places, capsys):
    listing = places / "list.txt"
    listing.write_text(f"images/b/3.png\n{places.parent / '7.png'}\n")
    rows = detected(places, listing, "--data", places / "sea.yaml")
    assert {row["image_id"] for row in rows} == {997, 7} and {row["category_id"] for row in rows} <= {40, 43, 46}
    assert "1 images are not in it" in capsys.readouterr().out
    alone = detected(places, places.parent / "7.png", weights="trained.pt")  # nothing of the data set: as ever
    assert {row["category_id"] for row in alone} <= {0, 1, 2} and alone[0]["file_name"] == str(places.parent / "7.png")
    assert "has the ids" not in capsys.readouterr().out


def test_data_that_does_not_fit_is_told(places, tmp_path):
    other = json.loads((places / "val.json").read_text())
    other["categories"] = [{"id": 1, "name": "boat"}, {"id": 40, "name": "buoy"}]
    (tmp_path / "val.json").write_text(json.dumps(other))
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(
        {"path": str(tmp_path), "val": {"images": str(places / "images"), "annotations": "val.json"}}))
    with refused("other-classes", "boat"):
        detected(places, places.parent / "7.png", "--data", tmp_path / "other.yaml")
    with refused("flag-without-effect", "--save-json"):
        run(detect, "--weights", "x.pt", "--source", "y", "--data", "sea.yaml")
