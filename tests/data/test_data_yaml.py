"""The words of a data YAML as people and tools write them, and as nobody should."""

import time
from pathlib import Path

import pytest
import yaml as pyyaml

from data.data_yaml import read_source
from data.index import load_index
from tests.data import makers
from tests.refusals import refused
from utils.errors import UserError

GOOD = "0 .5 .5 .2 .2\n"


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


def written(folder, text):
    """A YAML beside one labelled image."""
    makers.yolo(folder, {"a.jpg": GOOD, "b.jpg": "1 .5 .5 .2 .2\n"})
    file = folder / "data.yaml"
    file.write_text(f"path: '{folder}'\ntrain: images/train\n{text}\n")
    return file


@pytest.mark.parametrize("text, names", [
    ("names: {'0': car, '1': bus}", ["car", "bus"]), ("names: {\"1\": bus, 0: car}", ["car", "bus"]),
    ("names: [yes, no]", ["yes", "no"]), ("names: [007, 1e3]", ["007", "1e3"]), ("names: [~, none]", ["~", "none"]),
    ("names: {0: on, 1: off}", ["on", "off"]), ("names: [null, 1.10]", ["null", "1.10"])])
def test_names_as_they_are_written(tmp_path, text, names):
    index = load(written(tmp_path, text))
    assert index.names == names and index.report.boxes == 2


def test_a_name_for_two_classes_is_told(tmp_path):
    assert "'car' stands 2 times in `names`" in load(written(tmp_path, "names: [car, car]")).report.format()


@pytest.mark.parametrize("text, said", [
    ("names: [a, '']", "for class 1; give it a name"), ("names: [a, [b]]", "for class 1"),
    ("names: [a, {b: c}]", "for class 1"), ('names: [a, "\\e[2Jb"]', "printable"), ("names: {}", "should be a list"),
    ("names: []", "should be a list"), ("names: coco.names", "should be a list"), ("names: 7", "should be a list"),
    ("names: {a: 0, b: 1}", "keys of `names`"), ("names: {0: a, 2: b}", "keys of `names`"),
    ("names: {2: a, 3: b}", "keys of `names`"), ("names: {yes: a, no: b}", "keys of `names`"),
    ("names: {0: a, 0.5: b}", "keys of `names`"), ("names: {0: a, '0': b}", "keys of `names`"),
    ("nc: 10000000", "1 to 50,000"), ("nc: 1e7", "1 to 50,000"), ("nc: yes", "1 to 50,000"), ("nc: 0", "1 to"),
    ("nc: [2]", "1 to 50,000"), ("nc: '2'", "`nc: '2'` should be the number of classes, 1 to 50,000, without"),
    ("nc: " + "9" * 4000, "1 to 50,000"),
    ("kpt_shape: 17", "kpt_shape"), ("kpt_shape: [17, 4]", "kpt_shape"), ("kpt_shape: [0, 3]", "kpt_shape"),
    ("kpt_shape: [1.5, 2]", "kpt_shape"), ("kpt_shape: [17]", "kpt_shape"), ("format: [coco]", "no such `format"),
    ("format: {a: b}", "no such `format"), ("difficult: no", "no such `difficult"),
    ("format: " + "x" * 100_000, "no such `format")])
def test_wrong_words_are_one_short_sentence(tmp_path, text, said):
    base = "" if text.startswith(("names", "nc")) else "\nnames: [a, b]"
    with pytest.raises(UserError) as error:
        load(written(tmp_path, text + base))
    assert said in str(error.value) and "\n" not in str(error.value) and "data.yaml" in str(error.value)
    assert len(str(error.value)) < 3 * len(str(tmp_path)) + 500


WRONG = [3, 1.5, True, [], {}, [[]], [3], [None], {"images": 3, "annotations": 4}, {"images": "images"},
         {"images": None, "annotations": None}, [{"images": "images/train"}], "a\0b", "x" * 5000, "/dev/null",
         "~nobody-x", "x" * 20_000, ["y" * 5000] * 5, {str(k): k for k in range(300)}, "images/train/a.jpg",
         "set.yaml"]


@pytest.mark.parametrize("key", ["path", "train", "names", "kpt_shape", "format", "difficult", "nc", "size"])
def test_any_value_of_any_key_is_read_or_told(tmp_path, key):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD})
    content = pyyaml.safe_load(yaml.read_text())
    for value in WRONG:
        yaml.write_text(pyyaml.safe_dump({**content, key: value}))
        before = time.process_time()
        try:
            load(yaml)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 3000
        assert time.process_time() - before < 5


# path

def splits(folder, *paths):
    for path in paths:
        makers.yolo(folder / path, {"a.jpg": GOOD})


def test_a_relative_path_is_that_which_has_the_split(tmp_path, monkeypatch):
    splits(tmp_path / "proj", "data")
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    yaml = makers.config(tmp_path / "proj", path="data", train="images/train", names=["cat"])
    index = load(yaml)
    assert index.records[0].path == str(tmp_path / "proj" / "data" / "images" / "train" / "a.jpg")
    assert not index.report.notes


@pytest.mark.parametrize("path", [".", "./"])
def test_path_of_a_dot_is_the_folder_of_the_yaml(tmp_path, monkeypatch, path):
    splits(tmp_path, "set", "here")
    yaml = makers.config(tmp_path / "set", path=path, train="images/train", names=["cat"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert not load(yaml).report.notes
    monkeypatch.chdir(tmp_path / "here")
    index = load(yaml)
    assert index.source.root == tmp_path / "set" and len(index) == 1
    assert any(f"{tmp_path / 'here'} has `train:` too" in note for note in index.report.notes)


def test_paths_of_windows(tmp_path):
    splits(tmp_path, "set/deep")
    yaml = makers.config(tmp_path, path="set\\deep", train="images\\train", names=["cat"])
    assert len(load(yaml)) == 1


def test_a_linked_yaml_sees_its_own_folder_first(tmp_path, monkeypatch):
    splits(tmp_path, "set")
    yaml = tmp_path / "real.yaml"
    yaml.write_text("train: images/train\nnames: [cat, dog]\n")
    (tmp_path / "set" / "link.yaml").symlink_to(yaml)
    monkeypatch.chdir("/")
    assert Path(read_source(tmp_path / "set" / "link.yaml", "train").entries[0]) == tmp_path / "set/images/train"


# ids from one

@pytest.mark.parametrize("names, ids, cure", [
    (["a", "b", "c"], (1, 2, 3), "{1: a, 2: b, ...}"), (["a"], (1, 1), "{1: a}"),
    (["a", "b"], (2, 2), "{1: a, 2: b, ..")])
def test_class_ids_from_one_are_refused_with_the_cure(tmp_path, names, ids, cure):
    yaml = makers.yolo(tmp_path, {f"{k}.jpg": f"{i} .5 .5 .2 .2\n" for k, i in enumerate(ids)}, names=names)
    with refused("shifted-class-ids") as error:
        load(yaml)
    assert cure in str(error.value) and ".txt: class" in str(error.value)
    cured = makers.config(tmp_path, train="images/train", names=dict(enumerate(names, 1)))
    index = load(cured, strict=True)
    assert index.names == names and [r.labels.tolist() for r in index.records] == [[i - 1] for i in ids]


def test_names_from_one_and_labels_from_zero_are_refused(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD + "1 .5 .5 .3 .3\n"}, names={1: "a", 2: "b"})
    with refused("shifted-class-ids", r"a\.txt", "class 0", "`names`"):
        load(yaml)


def test_an_id_too_many_among_right_ones_is_only_counted(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": GOOD + "2 .5 .5 .3 .3\n"})
    assert load(yaml).report.count("bad_class") == 1


def test_a_list_whose_images_are_all_elsewhere_says_so(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2"}, train="list.txt")
    for line in ("D:\\data\\images\\a.jpg", "/nowhere/of/another/user/images/a.jpg"):
        (tmp_path / "list.txt").write_text(line + "\n")
        with refused("no-images", "`train:`"):
            load_index(yaml, "train", cache=False)
