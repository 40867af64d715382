"""The verdict says in one line what is wrong and what to do, for each kind of fault."""

import re

import pytest

from data.doctor.advice import ADVICE, advice_for
from data.doctor.checks import compare_classes, examine, verdict
from data.index import load_index
from data.labels.scan_report import HARMLESS, KINDS, ScanReport
from tests.data import makers
from tests.data.formats.test_formats import annotation

ROW = "0 .5 .5 .2 .3\n"


def reasons(yaml, split="train") -> list[str]:
    index = load_index(yaml, split, cache=False)
    return verdict(examine(index, split, 640)[0])[1]


def test_whatever_is_lost_or_changed_has_a_cure():
    assert not [kind for kind in KINDS if kind not in HARMLESS and not advice_for(kind)]
    assert not [kind for kind, text in ADVICE.items() if text.endswith(".") or "\n" in text]


@pytest.mark.parametrize(("text", "said"), [
    ("0 .5 .5 .2 .3\n7 .5 .5 .2 .3\n",
     r"broken: train: 2 labels of an unknown class: skipped; the first: .*a\.txt line 2, class 7; .*; add the class"),
    ("0 .5 .5 .2 .3\n0 .5 .5\n",
     r"broken: train: 2 labels that are not well formed: .*'0 \.5 \.5'.*; correct these rows"),
    ("0 .5 .5 .2 .3\n0 .5 .5 0 .3\n", r"broken: train: 2 boxes without area .* line 2; draw them again"),
    ("0 .5 .5 .2 .3\n0 .5 .5 .2 .3\n", r"look at this: train: 2 boxes given twice: taken once; .*; delete one of each"),
])
def test_a_line_names_fault_place_and_cure(tmp_path, text, said):
    yaml = makers.yolo(tmp_path, {"a.jpg": text, "b.jpg": text})
    assert re.match(said, reasons(yaml)[0])


def test_missing_labels_are_ordinary_in_a_few_images_only(tmp_path):
    few = {f"{k}.jpg": ROW for k in range(19)}
    assert not reasons(makers.yolo(tmp_path / "few", {**few, "x.jpg": None}))
    many = reasons(makers.yolo(tmp_path / "many", {**few, **{f"x{k}.jpg": None for k in range(3)}}))
    assert many[0].startswith("look at this: train: 3 images without a label file") and "looked for" in many[0]


def test_areas_that_cannot_be_are_in_the_verdict(tmp_path):
    for area, said in ((0.0, True), (9000.0, True), (200.0, False)):
        rows = [annotation(k, area=area + k * bool(area), bbox=[10 * k, 10, 8, 30 + k]) for k in range(1, 9)]
        told = [r for r in reasons(makers.coco(tmp_path, rows)) if "areas" in r]
        assert len(told) == said and all(r.startswith("look at this: train: 8 areas that cannot be") and
                                         r.endswith("or leave `area` out") for r in told)


def test_a_split_without_objects_says_why(tmp_path):
    crowds = makers.coco(tmp_path / "crowds", [annotation(1, iscrowd=1), annotation(2, image_id=5, iscrowd=1)])
    assert reasons(crowds)[0].startswith("broken: train: there is not one object in this split: all 2 labels are")
    empty = makers.yolo(tmp_path / "empty", {"a.jpg": ""})
    assert "there is not one object in this split: the label files hold no row;" in reasons(empty)[0]
    unknown = makers.yolo(tmp_path / "unknown", {"a.jpg": "7 .5 .5 .2 .3\n"})
    assert "all labels were left out, 1 of them as labels of an unknown class, the first: " in reasons(unknown)[1]


def test_more_objects_of_a_class_than_ap_counts(tmp_path):
    grid = [(x / 20 + .025, y / 20 + .025) for x in range(20) for y in range(20)]
    rows = [f"{k} {x} {y} .04 .04\n" for k, n in ((0, 101), (1, 100)) for x, y in grid[150 * k:150 * k + n]]
    yaml = makers.yolo(tmp_path, {"a.jpg": "".join(rows), "b.jpg": "".join(rows[101:])})
    told = [f for f in examine(load_index(yaml, "train", cache=False), "train", 640)[0] if f.kind == "dense"]
    assert len(told) == 1
    assert told[0].text.startswith("1 images hold more than 100 objects of one class, the fullest 101: ")
    assert told[0].examples[0].endswith("a.jpg: 101 of cat")


def test_names_given_twice(tmp_path):
    index = load_index(makers.yolo(tmp_path, {"a.jpg": ROW + "1 .1 .1 .1 .1\n"}, names=["cat", "cat"]), "train")
    found = {f.kind: f for f in compare_classes({"train": index})}
    assert found["same_name"].examples == ["cat"]


def test_a_cure_is_the_end_of_a_sentence():
    assert advice_for("thin").startswith("; ") and advice_for("plain") == "" and not ScanReport().findings


@pytest.mark.parametrize(("ids", "asked"), [((1, 2), True), ((0, 1), False)])
def test_a_first_class_without_objects_asks_where_ids_begin(tmp_path, ids, asked):
    yaml = makers.yolo(tmp_path, {f"{k}.jpg": f"{k} .5 .5 .2 .2\n" for k in ids}, names=["cat", "dog", "cow", "hen"])
    found = compare_classes({"train": load_index(yaml, "train", cache=False)})
    reasons = verdict(found)[1]
    assert any("do class ids count from 1?" in reason for reason in reasons) == asked
    assert any("classes without an object" in reason for reason in reasons)
