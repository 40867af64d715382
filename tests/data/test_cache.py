"""The label cache is plain data, notices every change, and never stands in the way."""

import os
import zipfile

import numpy as np
import pytest

from data import cache, index
from data.index import load_index
from tests.data import makers

GOOD = "0 .5 .5 .2 .2\n"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return makers.yolo(tmp_path / "set", {"a.jpg": GOOD, "b.jpg": None})


@pytest.fixture
def scans(monkeypatch):
    """How often the files were really read."""
    calls = []
    real = index.scan
    monkeypatch.setattr(index, "scan", lambda *args: calls.append(1) or real(*args))
    return calls


def folder(yaml):
    return yaml.parent


def test_second_load_is_the_same_without_reading(dataset, scans):
    first, second = load_index(dataset, "train"), load_index(dataset, "train")
    assert len(scans) == 1
    assert first.report == second.report and first.names == second.names and first.coco() == second.coco()
    with np.load(folder(dataset) / "set-train.cache.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def touch_label(root):
    (root / "labels/train/a.txt").write_text("1 .5 .5 .2 .2\n")
    os.utime(root / "labels/train/a.txt", ns=(1, 1))  # the same size: only the time tells


@pytest.mark.parametrize("change", [
    touch_label,
    lambda root: (root / "labels/train/b.txt").write_text(GOOD),
    lambda root: (root / "labels/train/a.txt").unlink() or (root / "labels/train/b.txt").write_text(""),
    lambda root: makers.image(root / "images/train/c.jpg"),
    lambda root: (root / "images/train/b.jpg").unlink(),
    lambda root: makers.image(root / "images/train/a.jpg", 90, 90),
    lambda root: (root / "set.yaml").write_text((root / "set.yaml").read_text().replace("cat", "cow")),
])
def test_every_change_is_noticed(dataset, scans, change):
    load_index(dataset, "train")
    change(folder(dataset))
    fresh = load_index(dataset, "train")
    assert len(scans) == 2
    assert fresh.coco() == load_index(dataset, "train", cache=False).coco()


def test_damaged_cache_is_made_again(dataset, scans):
    load_index(dataset, "train")
    file = folder(dataset) / "set-train.cache.npz"
    whole = file.read_bytes()
    for content in (b"", b"no archive", whole[:len(whole) // 2], whole[:-10]):
        file.write_bytes(content)
        assert len(load_index(dataset, "train")) == 2
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.npy", b"x")
    assert len(load_index(dataset, "train")) == 2
    assert len(scans) == 6


def test_pickled_content_is_never_read(dataset):
    load_index(dataset, "train")
    file = folder(dataset) / "set-train.cache.npz"
    np.savez(file, meta=np.array([{"key": "x"}], object), allow_pickle=True)
    assert cache.load([file], "x") is None


def test_read_only_dataset_is_cached_elsewhere(dataset, scans, tmp_path):
    folder(dataset).chmod(0o555)
    try:
        load_index(dataset, "train")
        load_index(dataset, "train")
    finally:
        folder(dataset).chmod(0o755)
    assert len(scans) == 1 and not list(folder(dataset).glob("*.npz"))
    assert len(list((tmp_path / "user" / "assn").glob("*-set-train.cache.npz"))) == 1


def test_no_place_to_write_is_told(dataset, monkeypatch):
    monkeypatch.setattr(cache, "_writable", lambda place: False)
    assert any("could not be written" in note for note in load_index(dataset, "train").report.notes)


def test_single_cls_and_strict_share_the_cache(dataset, scans):
    load_index(dataset, "train")
    assert load_index(dataset, "train", single_cls=True, strict=True).names == ["item"]
    assert load_index(dataset, "train").names == ["cat", "dog"] and len(scans) == 1


def test_coco_cache_notices_annotations_and_images(tmp_path, scans):
    yaml = makers.coco(tmp_path, [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}])
    load_index(yaml, "train")
    (tmp_path / "train2017" / "b.jpg").unlink()
    assert load_index(yaml, "train").report.count("missing_image") == 1
    makers.coco(tmp_path, [])
    assert load_index(yaml, "train").report.boxes == 0
    assert len(scans) == 3
