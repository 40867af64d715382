"""The synthetic data: deterministic, with exact boxes and the promised sizes."""

import json

import cv2
import numpy as np
import pytest

from data.index import load_index
from data.shapes import generate as shapes
from data.shapes.draw import NAMES, draw_patch
from data.shapes.generate import Scene, generate, render
from tests.refusals import refused


def test_same_seed_same_scene():
    image, annotations = render(3, "train", 5, (96, 128), Scene())
    again, same = render(3, "train", 5, (96, 128), Scene())
    assert image.shape == (96, 128, 3) and image.dtype == np.uint8
    assert (image == again).all() and annotations == same
    for other in ((4, "train", 5), (3, "val", 5), (3, "train", 6)):
        assert (render(*other, (96, 128), Scene())[0] != image).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("root_area", [6.0, 20.5, 120.0])
def test_boxes_are_tight_and_areas_are_those_of_the_pixels(name, root_area):
    for turn in np.linspace(0, 2 * np.pi, 9):
        patch = draw_patch(name, root_area, turn, 1.2, 300)
        assert patch.area == pytest.approx(root_area ** 2, rel=0.15 if root_area < 10 else 0.05)
        assert patch.coverage.sum() / 255 == pytest.approx(patch.area, rel=0.02)
        rows, columns = (np.flatnonzero(patch.coverage.any(axis)) for axis in (1, 0))
        drawn = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        assert (np.abs(patch.box - drawn) < 1).all()  # no whole pixel of slack, none uncovered
        assert (patch.box[:2] >= drawn[:2]).all() and (patch.box[2:] <= drawn[2:]).all()


def test_silhouettes_differ_in_more_than_their_box():
    drawn = [cv2.resize(draw_patch(n, 60, 0, 1, 300).coverage, (64, 64)).astype(float) / 255 for n in NAMES]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1:]:
            assert np.abs(a - b).mean() > 0.1


def test_sizes_and_places_are_as_promised():
    areas, sides = [], []
    for number in range(1, 201):
        _, annotations = render(0, "train", number, (320, 320), Scene(background=0, crowd=0))
        boxes = np.array([a["bbox"] for a in annotations])
        boxes[:, 2:] += boxes[:, :2]
        assert (boxes >= 0).all() and (boxes <= 320).all()
        inner = (np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])).clip(0)
        own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        share = inner.prod(2) / np.minimum(own[:, None], own)
        assert (share - np.eye(len(own)) <= 0.1 + 1e-9).all()
        areas += [a["area"] for a in annotations]
        sides += (boxes[:, 2:] - boxes[:, :2]).max(1).tolist()
    small, medium = (np.array(areas) < 32 ** 2).mean(), (np.array(areas) < 96 ** 2).mean()
    assert 0.36 < small < 0.48 and 0.70 < medium < 0.80
    assert 6 <= min(sides) < 12 and 170 < max(sides) <= 300


def test_crowd_is_one_ignore_region():
    _, annotations = render(0, "train", 1, (320, 320), Scene(crowd=1.0, background=0))
    assert [a["iscrowd"] for a in annotations].count(1) == 1
    crowd = annotations[0]
    assert 0 < crowd["area"] <= crowd["bbox"][2] * crowd["bbox"][3]


def test_generate_is_whole_kept_and_remade_on_change(tmp_path):
    folder = generate(tmp_path, "train", 6, 96, seed=1)
    assert sorted(p.name for p in folder.iterdir()) == ["annotations.json", "images", "shapes.json"]
    first = (folder / "images" / "000003.jpg").read_bytes()
    stamp = (folder / "annotations.json").stat().st_mtime_ns
    generate(tmp_path, "train", 6, 96, seed=1)
    assert (folder / "annotations.json").stat().st_mtime_ns == stamp
    generate(tmp_path, "train", 8, 96, seed=1)  # a longer set begins with the shorter one
    assert (folder / "images" / "000003.jpg").read_bytes() == first and len(list((folder / "images").iterdir())) == 8
    generate(tmp_path, "train", 8, 96, seed=1, scene=Scene(min_side=9))
    assert (folder / "images" / "000003.jpg").read_bytes() != first
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    content = json.loads((folder / "annotations.json").read_text())
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"]) > 0


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    generate(tmp_path, "val", 2, 64, seed=0)
    monkeypatch.setattr(shapes, "_write", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(tmp_path, "val", 3, 64, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["val"] and len(list((tmp_path / "val/images").iterdir())) == 2


def write(tmp_path, text):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(f"format: shapes\npath: {tmp_path}/drawn\n{text}")
    return yaml


def test_load_index_draws_on_demand(tmp_path):
    index = load_index(write(tmp_path, "train: 10\nsize: [64, 96]\nscene: {objects: [2, 4]}"), "train")
    assert len(index) == 10 and index.names == list(NAMES) and index.category_ids == [1, 2, 3, 4, 5]
    assert {(r.height, r.width) for r in index.records} == {(64, 96)} and not index.report.findings
    again = load_index(write(tmp_path, "train: 12\nsize: [64, 96]\nscene: {objects: [2, 4]}"), "train")
    assert len(again) == 12 and again.coco()["annotations"][:5] == index.coco()["annotations"][:5]


@pytest.mark.parametrize(("text", "code", "said"), [
    ("train: many", "bad-value", "`train: many`"),
    ("train: 5\nsize: 7", "bad-value", "`size: 7`"),
    ("train: 5\nseed: -1", "bad-value", "`seed: -1`"),
    ("train: 5\nscene: {objcts: [1, 2]}", "unknown-key", "'objects'"),
    ("train: 5\nscene: {objects: [3, 2]}", "bad-value", "`objects"),
    ("train: 5\nscene: {small: x}", "bad-value", "`small"),
    ("train: 5\nscene: .nan", "bad-value", "`scene: nan`"),
    ("train: 5\nscene: [1]", "bad-value", "`scene"),
    (f"train: 5\nsize: {[32] * 5000}", "bad-value", r"`size: \[32, 32, .{,100}`"),
])
def test_wrong_words_are_one_sentence(tmp_path, text, code, said):
    with refused(code, said):
        load_index(write(tmp_path, text), "train")
