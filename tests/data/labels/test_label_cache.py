"""The label cache is plain data, notices every change of content and nothing else, and never stands in the way."""

import json
import os
import shutil
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from data import index
from data.index import load_index
from data.labels import label_cache as cache
from data.labels.records import RecordTable
from data.labels.scan_report import ScanReport
from tests.data import makers

GOOD = "0 .5 .5 .2 .2\n"
META = {"names": ["cat", "dog"], "category_ids": [1, 2]}


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


def edit_label(root):
    """Other content of the same size at the same time."""
    file = root / "labels/train/a.txt"
    before = file.stat()
    file.write_text("1 .5 .5 .2 .2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("change", [
    edit_label,
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


def test_touched_files_are_not_read_again(dataset, scans):
    load_index(dataset, "train")
    for file in folder(dataset).rglob("*.*"):
        os.utime(file, ns=(1, 1))
    load_index(dataset, "train")
    assert len(scans) == 1


def flat(tmp_path):
    """A COCO set whose report names files, and whose YAML has no `path`."""
    rows = [{"id": k, "image_id": 7, "category_id": 1, "bbox": [1, 2, w, 4]} for k, w in ((1, 3), (2, 0), (3, 500))]
    yaml = makers.coco(tmp_path / "set", rows)
    (yaml.parent / "train2017" / "b.jpg").unlink()
    return yaml


@pytest.mark.parametrize("make", [
    lambda place: makers.yolo(place / "set", {"a.jpg": GOOD + "0 .9 .5 .4 .2", "b.jpg": None}),
    lambda place: makers.voc(place / "set", {"a": makers.xml(makers.xml_object("cat", 1, 2, 3, 900)), "b": None}),
    flat,
])
@pytest.mark.parametrize("how", ["move", "copy"])
def test_a_moved_dataset_keeps_its_cache_and_names_its_new_place(tmp_path, monkeypatch, scans, make, how):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "old").mkdir()
    yaml = make(tmp_path / "old")
    before = load_index(yaml, "train")
    target = tmp_path / "elsewhere" / "deeper" / "set"
    shutil.copytree(yaml.parent, target)
    if how == "move":
        shutil.rmtree(yaml.parent)
    moved = target / yaml.name
    moved.write_text(moved.read_text().replace(str(yaml.parent), str(target)))
    after = load_index(moved, "train")
    assert len(scans) == 1
    assert [Path(r.path).relative_to(target) for r in after.records] == [
        Path(r.path).relative_to(yaml.parent) for r in before.records]
    assert after.report.findings and str(tmp_path / "old") not in after.report.format()
    fresh = load_index(moved, "train", cache=False)
    assert after.report == fresh.report and after.coco() == fresh.coco()
    assert [r.path for r in after.records] == [r.path for r in fresh.records]


def test_the_same_files_in_other_places_of_the_dataset_are_another_dataset(dataset, scans):
    load_index(dataset, "train")
    root = folder(dataset)
    (root / "images/train/a.jpg").rename(root / "images/train/d.jpg")
    (root / "labels/train/a.txt").rename(root / "labels/train/d.txt")
    assert [Path(r.path).name for r in load_index(dataset, "train").records] == ["b.jpg", "d.jpg"] and len(scans) == 2


def test_images_outside_of_the_dataset_stay_where_they_are(tmp_path, scans):
    """A list file may name images on another disk: after a move of the list they are still there."""
    image = makers.image(tmp_path / "disk" / "a.jpg")
    image.with_suffix(".txt").write_text(GOOD)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.txt").write_text(f"{image}\n")
        yaml = makers.config(tmp_path / name, train="train.txt", names=["cat", "dog"])
        assert [r.path for r in load_index(yaml, "train").records] == [str(image)]


def test_optional_columns_may_be_absent(tmp_path, dataset):
    table = load_index(dataset, "train").records
    key = cache.digest((), [str(folder(dataset) / "images/train/a.jpg")])
    for extra in ({}, {"windows": np.ones((2, 4), np.int32), "full_sizes": np.ones((2, 2), np.int32)}):
        whole = RecordTable(**{f.name: getattr(table, f.name) for f in fields(table)} | extra)
        assert cache.save([tmp_path / "x.npz"], key, whole, META, ScanReport(2)) == tmp_path / "x.npz"
        read = cache.load([tmp_path / "x.npz"], key)[0]
        for f in fields(table):
            np.testing.assert_array_equal(getattr(read, f.name), getattr(whole, f.name))


def was_damaged(index):
    return any("was damaged: all labels were read anew" in note for note in index.report.notes)


def test_damaged_cache_is_made_again_and_told(dataset, scans):
    assert not was_damaged(load_index(dataset, "train"))
    file = folder(dataset) / "set-train.cache.npz"
    whole = file.read_bytes()
    for content in (b"", b"no archive", whole[:len(whole) // 2], whole[:-10]):
        file.write_bytes(content)
        index = load_index(dataset, "train")
        assert len(index) == 2 and was_damaged(index) and not was_damaged(load_index(dataset, "train"))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.npy", b"x")
    assert len(load_index(dataset, "train")) == 2
    assert len(scans) == 6
    edit_label(folder(dataset))
    assert not was_damaged(load_index(dataset, "train"))  # another dataset, no damage


def spoiled(name, value):
    """A change of one array, or of a part of the meta data: a path of keys."""
    def change(arrays):
        if isinstance(name, str):
            arrays[name] = value(arrays[name]) if callable(value) else value
            return
        content = json.loads(arrays["meta"].tobytes())
        at = content
        for key in name[:-1]:
            at = at[key]
        at[name[-1]] = value
        arrays["meta"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    return change


@pytest.mark.parametrize("change", [
    spoiled("labels", lambda a: a + 2), spoiled("labels", lambda a: a - 5), spoiled("labels", lambda a: a.astype("f4")),
    spoiled("labels", lambda a: np.append(a, a)), spoiled("boxes", lambda a: a * np.nan),
    spoiled("boxes", lambda a: a + np.float32([0, 0, 0, 1e9])), spoiled("boxes", lambda a: a - np.float32(100)),
    spoiled("boxes", lambda a: a[:, ::-1].copy()), spoiled("boxes", lambda a: a.astype("f8")),
    spoiled("boxes", lambda a: a[:, :2].copy()), spoiled("sizes", lambda a: a * 0), spoiled("ends", lambda a: a + 1),
    spoiled("ends", lambda a: a - [2, 0]), spoiled("path_ends", lambda a: a * 1000),
    spoiled("path_ends", lambda a: -a), spoiled("areas", lambda a: a * np.nan), spoiled("image_ids", np.zeros((9, 9))),
    spoiled("polygon_ends", np.zeros(1, np.int64)), spoiled("ignore", lambda a: a.astype(np.uint8)),
    spoiled("windows", np.zeros((1, 1), np.int32)), spoiled("meta", np.frombuffer(b"[" * 100_000, np.uint8)),
    spoiled(("meta", "names"), "cat"), spoiled(("meta", "names"), [1, 2]), spoiled(("meta", "names"), ["cat"] * 3),
    spoiled(("meta", "category_ids"), [1]), spoiled(("meta", "category_ids"), ["a", "b"]), spoiled(("meta",), None),
    spoiled(("report", "images"), "2"), spoiled(("report", "images"), 7), spoiled(("report", "boxes"), -1),
    spoiled(("report", "findings"), {"no kind": [1, "x"]}), spoiled(("report", "findings"), {"clipped": 3}),
    spoiled(("report", "findings"), []), spoiled(("report", "notes"), [3]), spoiled(("report",), {"x": 1})])
def test_a_cache_is_checked_like_labels(dataset, scans, change):
    good = load_index(dataset, "train")
    file = folder(dataset) / "set-train.cache.npz"
    with np.load(file, allow_pickle=False) as content:
        arrays = dict(content)
    change(arrays)
    np.savez(file, **arrays)
    index = load_index(dataset, "train")
    assert was_damaged(index) and len(scans) == 2
    assert index.coco() == good.coco() and index.names == good.names


def test_a_cache_takes_no_memory_for_what_it_only_claims(dataset, scans):
    load_index(dataset, "train")
    file = folder(dataset) / "set-train.cache.npz"
    with np.load(file, allow_pickle=False) as content:
        arrays = dict(content)
    np.savez_compressed(file, **{**arrays, "paths": np.zeros(1 << 24, np.uint8)})
    assert was_damaged(load_index(dataset, "train"))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"'shape': (2,), }    ", b"'shape': (2 * 9,), }"))
    head = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999999,), }"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.npy", head.ljust(127) + b"\n")
    assert was_damaged(load_index(dataset, "train")) and len(scans) == 3


def test_a_pipe_for_a_cache_is_not_waited_for(dataset, scans):
    os.mkfifo(folder(dataset) / "set-train.cache.npz")
    assert len(load_index(dataset, "train")) == 2 and len(scans) == 1


def test_pickled_content_is_never_read(dataset):
    load_index(dataset, "train")
    file = folder(dataset) / "set-train.cache.npz"
    np.savez(file, meta=np.array([{"key": "x"}], object), allow_pickle=True)
    assert cache.load([file], cache.Key("x", "/")) is None


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
    monkeypatch.setattr(cache, "writable", lambda place: False)
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
