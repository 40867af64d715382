"""Which files a split consists of: links, leftovers, lists as people and tools write them."""

import os
import socket
from pathlib import Path

import pytest

from data.formats.paths import image_files, label_files, read_lines
from data.index import load_index
from data.labels.scan_report import ScanReport
from engine.inference.sources import open_source
from tests.data import makers
from tests.refusals import refused

GOOD = "0 .5 .5 .2 .2\n"


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


def names(index):
    return [Path(r.path).name for r in index.records]


def labelled(folder, stem, text=GOOD, suffix=".jpg", labels=None):
    """An image and its label file in `labels` for `images`, or in the folder `labels`."""
    makers.image(folder / f"{stem}{suffix}")
    labels = labels or Path(str(folder).replace("/images", "/labels"))
    labels.mkdir(parents=True, exist_ok=True)
    (labels / f"{stem}.txt").write_text(text)


# Links

def test_a_linked_split_keeps_its_path(tmp_path):
    labelled(tmp_path / "raw" / "cam", "a", labels=tmp_path / "set" / "labels" / "train")
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "train").symlink_to(tmp_path / "raw" / "cam")
    index = load(makers.config(tmp_path / "set", train="images/train", names=["cat"]))
    assert [r.path for r in index.records] == [str(tmp_path / "set" / "images" / "train" / "a.jpg")]
    assert index.report.boxes == 1 and not index.report.findings


def test_linked_images_and_a_linked_root_keep_their_paths(tmp_path):
    real = makers.image(tmp_path / "pool" / "0001.jpg")
    for folder, file in (("images", "a.jpg"), ("labels", "a.txt")):
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / file).write_text(GOOD)
    (tmp_path / "set" / "images" / "a.jpg").unlink()
    (tmp_path / "set" / "images" / "a.jpg").symlink_to(real)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    yaml = makers.config(tmp_path, path=str(tmp_path / "link"), train="images", names=["cat"])
    index = load(yaml)
    assert index.records[0].path == str(tmp_path / "link" / "images" / "a.jpg") and index.report.boxes == 1
    assert index.source.root == tmp_path / "link"
    (tmp_path / "link" / "list.txt").write_text("images/a.jpg\n")
    listed = load(makers.config(tmp_path, path="link", train="list.txt", names=["cat"]))
    assert listed.records[0].path == index.records[0].path and listed.report.boxes == 1


def test_walking_follows_links_once_and_ends(tmp_path):
    labelled(tmp_path / "set" / "images" / "train" / "own", "a")
    labelled(tmp_path / "set" / "images" / "val", "v")
    labelled(tmp_path / "nas" / "night", "b", labels=tmp_path / "nas" / "night_labels")
    train = tmp_path / "set" / "images" / "train"
    (train / "night").symlink_to(tmp_path / "nas" / "night")
    (train / "night_again").symlink_to(tmp_path / "nas" / "night")
    (train / "a_link_before_it").symlink_to(train / "own")
    (tmp_path / "set" / "labels" / "train" / "night").symlink_to(tmp_path / "nas" / "night_labels")
    for loop, target in (("self", train), ("up", tmp_path / "set"), ("own/up", train), ("gone", tmp_path / "gone")):
        (train / loop).symlink_to(target)
    (tmp_path / "nas" / "night" / "all").symlink_to(tmp_path / "nas")
    index = load(makers.config(tmp_path / "set", train="images/train", names=["cat"]))
    assert [r.path for r in index.records] == [str(train / "night" / "b.jpg"), str(train / "own" / "a.jpg")]
    assert index.report.boxes == 2 and not index.report.findings


def test_a_link_to_an_image_that_is_gone_is_told(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD})
    (tmp_path / "images" / "train" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert load(yaml).report.count("missing_image") == 1


# What is no image of the data

def test_leftovers_are_left_out_and_counted(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    train = tmp_path / "images" / "train"
    for place in (".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg/thumb.jpg", ".cache/x/y.png"):
        makers.image(train / place)
    (train / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (train / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "labels" / "train" / "._a.txt").write_bytes(b"\0\5\x16\7\xff")
    index = load(yaml, strict=True)
    assert names(index) == ["a.jpg", "b.jpg"] and index.report.findings.keys() == {"leftover"}
    assert index.report.count("leftover") == 5 and index.report.background == 0


def test_a_hidden_folder_may_hold_the_data(tmp_path):
    assert len(load(makers.yolo(tmp_path / ".data", {"a.jpg": GOOD}))) == 1


def test_pipes_and_devices_are_no_images(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD, "c.jpg": GOOD})
    train = tmp_path / "images" / "train"
    os.mkfifo(train / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(train / "socket.png"))
    (train / "null.jpg").symlink_to("/dev/null")
    (tmp_path / "labels" / "train" / "b.txt").unlink()
    os.mkfifo(tmp_path / "labels" / "train" / "b.txt")
    (tmp_path / "labels" / "train" / "c.txt").unlink()
    (tmp_path / "labels" / "train" / "c.txt").symlink_to("/dev/zero")
    for _ in range(2):  # without and with a cache to look for
        report = load_index(yaml, "train").report
        assert report.images == 1
        assert (report.count("special_file"), report.count("corrupt_label")) == (3, 2)
    os.mkfifo(tmp_path / "list.txt")
    with refused("not-a-file"):
        load(makers.config(tmp_path, train="list.txt", names=["cat"]))


def test_kinds_that_are_not_read_are_counted(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD})
    for name in ("x.heic", "y.CR2", "notes.md", "z.svg"):
        (tmp_path / "images" / "train" / name).write_bytes(b"x")
    report = load(yaml).report
    assert report.count("unread_image") == 3 and "x.heic" in report.format()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".mpo", ".JPEG", ".PNG", ".ppm", ".dib", ".TIFF"])
def test_suffixes_of_cameras_and_browsers(tmp_path, suffix):
    encoded = {".jfif": ".jpg", ".jpe": ".jpg", ".mpo": ".jpg", ".dib": ".bmp"}.get(suffix, suffix.lower())
    yaml = makers.yolo(tmp_path, {f"a{encoded}": GOOD})
    (tmp_path / "images" / "train" / f"a{encoded}").rename(tmp_path / "images" / "train" / f"a{suffix}")
    (tmp_path / "labels" / "train" / "a.txt").rename(tmp_path / "labels" / "train" / "a.TXT")
    index = load(yaml)
    assert names(index) == [f"a{suffix}"] and index.report.boxes == 1 and not index.report.findings


# Where labels lie

def test_labels_beside_images_in_a_folder_named_images(tmp_path):
    for k in range(2):
        labelled(tmp_path / "siteA", f"{k}", labels=tmp_path / "siteA")
        labelled(tmp_path / "siteB" / "images", f"{k}", labels=tmp_path / "siteB" / "images")
        labelled(tmp_path / "siteC" / "images", f"{k}")
    index = load(makers.config(tmp_path, train=["siteA", "siteB/images", "siteC/images"], names=["cat"]))
    assert index.report.boxes == 6 and not index.report.findings


def test_the_labels_folder_comes_first(tmp_path):
    labelled(tmp_path / "images", "a", "1 .5 .5 .2 .2\n")
    (tmp_path / "images" / "a.txt").write_text(GOOD)
    assert label_files([str(tmp_path / "images" / "a.jpg")]) == [str(tmp_path / "labels" / "a.txt")]
    absent = str(tmp_path / "images" / "b.c.jpg")
    assert label_files([absent]) == [str(tmp_path / "labels" / "b.c.txt")]


def test_two_images_of_one_label_file_are_told(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD, "a.png": GOOD, "b.jpg": GOOD})
    report = load(yaml).report
    assert (report.images, report.boxes, report.count("shared_label")) == (3, 3, 1)
    assert "a.txt for" in report.format()


# Lists

@pytest.fixture
def listed(tmp_path):
    """Writes lines into a list in a folder of its own and loads it."""
    for k in range(3):
        labelled(tmp_path / "images" / "train", str(k))
    (tmp_path / "splits").mkdir()

    def read(lines, name="splits/train.txt", encoding="utf-8", **words):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
        return load(makers.config(tmp_path, **{"train": name, "names": ["cat"], **words}))

    return read


@pytest.mark.parametrize("lines", [
    [f"./images/train/{k}.jpg" for k in range(3)], [f"../images/train/{k}.jpg" for k in range(3)],
    [f"images\\train\\{k}.jpg" for k in range(3)], [f".\\images\\train\\{k}.jpg" for k in range(3)],
    [f"data/images/train/{k}.jpg" for k in range(3)], [f"  images/train/{k}.jpg  \r" for k in range(3)],
    ["images/train/0.jpg", "../images/train/1.jpg", "images\\train\\2.jpg"]])
def test_lines_of_a_list(listed, tmp_path, lines):
    index = listed(lines)
    assert [r.path for r in index.records] == [str(tmp_path / "images" / "train" / f"{k}.jpg") for k in range(3)]
    assert index.report.boxes == 3 and not index.report.findings


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_list_of_which_one_image_is_gone(listed, tmp_path, gone):
    (tmp_path / "images" / "train" / f"{gone}.jpg").unlink()
    index = listed([f"./images/train/{k}.jpg" for k in range(3)])
    assert index.report.boxes == 2 and index.report.findings.keys() == {"missing_image"}
    assert str(tmp_path / "images" / "train" / f"{gone}.jpg") in index.report.format()


def test_one_image_twice_in_a_list_and_in_two_lists(listed):
    index = listed(["images/train/0.jpg", "./images/train/0.jpg", "images//train/1.jpg", "../images/train/1.jpg"])
    assert names(index) == ["0.jpg", "1.jpg"] and index.report.count("repeated_image") == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark(listed, encoding):
    index = listed([f"images/train/{k}.jpg" for k in range(3)], encoding=encoding)
    assert index.report.boxes == 3 and not index.report.findings


def test_lists_that_are_no_text(listed, tmp_path):
    with refused("not-utf8", r"train\.txt"):
        listed(["images/train/0.jpg"], encoding="utf-16-le")
    (tmp_path / "n.txt").write_bytes(b"images/\xe4.jpg\n")
    assert os.fsencode(read_lines(tmp_path / "n.txt")[0]) == b"images/\xe4.jpg"


def test_the_export_of_cvat(tmp_path):
    for k in range(2):
        labelled(tmp_path / "obj_train_data", f"frame_{k:06d}", suffix=".PNG", labels=tmp_path / "obj_train_data")
    (tmp_path / "train.txt").write_text("".join(f"data/obj_train_data/frame_{k:06d}.PNG\n" for k in range(2)))
    for train in ("train.txt", "obj_train_data"):
        index = load(makers.config(tmp_path, train=train, names=["car"]))
        assert index.report.boxes == 2 and not index.report.findings


def test_walking_tells_what_it_may_not_read(tmp_path):
    report = ScanReport()
    assert image_files(tmp_path / "gone", report) == [] and report.count("closed_folder") == 1


def test_a_line_longer_than_any_name_is_an_image_that_is_missing(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD}, train="list.txt")
    (tmp_path / "list.txt").write_text(f"{'b' * 70_000}.jpg\nimages/train/a.jpg\nimages/{'c' * 300}.jpg\n")
    index = load(yaml)
    assert names(index) == ["a.jpg"] and len(index.report.findings) == 1
    assert sum(count for count, _ in index.report.findings.values()) >= 2
    seen = open_source(str(tmp_path / "list.txt"))
    assert [Path(frame.path).name for frame in seen] == ["a.jpg"] and len(seen.skipped) == 2


def test_label_files_without_an_image_are_counted(tmp_path):
    yaml = makers.yolo(tmp_path, {f"{k}.jpg": "0 .5 .5 .2 .2\n" for k in "abcd"})
    for name in ("b.jpg", "d.jpg"):
        (tmp_path / "images" / "train" / name).unlink()
    for name, text in (("classes.txt", "cat\ndog\n"), ("._a.txt", "0 .5 .5 .2 .2\n"), ("list.txt", "images/a.jpg\n")):
        (tmp_path / "labels" / "train" / name).write_text(text)
    report = load_index(yaml, "train", cache=False).report
    assert report.images == 2 and report.count("lonely_label") == 2
    assert report.findings["lonely_label"][1].endswith("b.txt") and "missing_label" not in report.findings
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n")
    listed = makers.config(tmp_path, train="list.txt", names=["cat", "dog"])
    assert not load_index(listed, "train", cache=False).report.findings


def test_label_files_beside_images_are_counted_once(tmp_path):
    for name in ("a.jpg", "b.png"):
        makers.image(tmp_path / "set" / name)
    for name in ("a", "b", "c"):
        (tmp_path / "set" / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    yaml = makers.config(tmp_path, train="set", names=["cat"])
    assert load_index(yaml, "train", cache=False).report.count("lonely_label") == 1
