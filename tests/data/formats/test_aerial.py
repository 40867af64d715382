"""VisDrone and DOTA are read as published, with their ignore regions."""

import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.data_yaml import read_source
from data.formats import dota, visdrone
from data.index import load_index
from data.labels.scan_report import ScanReport
from engine.evaluation.collector import Collector
from engine.evaluation.metrics.judge import judge
from tests.data import makers
from tests.refusals import refused
from utils.config import CFG_ROOT, read_yaml
from utils.structures import Detections
from utils.truth import Truth

VIS = "20,10,40,30,1,4,0,0\n60,5,20,20,0,0,0,0\n10,20,8,8,1,1,0,1,\n80,40,10,10,1,11,0,0\n0,0,5,5,0,6,0,0\n"
DOTA = ("imagesource:GoogleEarth\ngsd:0.146343\n20.0 10.0 60.0 10.0 60.0 50.0 20.0 50.0 small-vehicle 0\n"
        "70 30 80 20 90 30 80 40 plane 1\n")


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


def write(folder, labels: str, text: str | dict, images="images", suffix=".jpg", **words):
    """Images a and b with label files of the same text in the folder `labels`; the YAML's path is `folder`."""
    texts = text if isinstance(text, dict) else {"a": text, "b": text}
    for stem, content in texts.items():
        makers.image(folder / images / f"{stem}{suffix}")
        (folder / labels).mkdir(parents=True, exist_ok=True)
        (folder / labels / f"{stem}.txt").write_text(content)
    return makers.config(folder, **{"train": images, **words})


def test_visdrone_as_published(tmp_path):
    index = load(write(tmp_path, "annotations", VIS))
    report, record = index.report, index.records[0]
    assert index.source.format == "visdrone" and index.names == list(visdrone.CLASSES)
    assert index.category_ids == list(range(1, 11)) and not report.findings
    assert (report.images, report.boxes, report.ignored) == (2, 4, 6)
    car, pedestrian = record.boxes[~record.ignore].tolist()
    assert car == [20, 10, 60, 40] and pedestrian == [10, 20, 18, 28]
    assert record.labels[~record.ignore].tolist() == [3, 0]
    ignored = [(record.labels[k].item(), record.boxes[k].tolist()) for k in np.flatnonzero(record.ignore)]
    regions = ([60, 5, 80, 25], [80, 40, 90, 50])
    assert sorted(ignored) == sorted([*((c, box) for box in regions for c in range(10)), (5, [0, 0, 5, 5])])
    assert report.notes == [
        "2 ignored regions (category 0) and 2 of `others` (category 11) are ignore regions of every class",
        "2 objects of score 0 are ignore regions of their own class"]
    truth = index.coco()["annotations"]
    assert {a["category_id"] for a in truth if a["bbox"] == [60, 5, 20, 20] and a["iscrowd"]} == set(range(1, 11))
    assert len({a["id"] for a in truth}) == len(truth) == 2 * 23


@pytest.mark.parametrize(("images", "labels", "train"), [
    ("VisDrone2019-DET-train/images", "VisDrone2019-DET-train/annotations", "VisDrone2019-DET-train"),
    ("VisDrone2019-DET-train/images", "VisDrone2019-DET-train/annotations", "VisDrone2019-DET-train/images"),
    ("images/train", "annotations/train", "images/train"),
    ("images/train", "labels/train", "images/train"),
    ("pictures", "boxes", {"images": "pictures", "annotations": "boxes"}),
])
def test_visdrone_is_found_in_its_folders(tmp_path, images, labels, train):
    index = load(write(tmp_path, labels, VIS, images, train=train))
    assert index.source.format == "visdrone" and (index.report.boxes, index.report.ignored) == (4, 6)


def test_visdrone_of_a_list_and_labels_that_are_not_there(tmp_path):
    yaml = write(tmp_path, "annotations", {"a": VIS, "b": VIS, "c": ""}, train="list.txt")
    (tmp_path / "annotations" / "b.txt").unlink()
    (tmp_path / "list.txt").write_text("images/a.jpg\nimages/b.jpg\nimages/c.jpg\n")
    report = load(yaml).report
    assert (report.images, report.boxes, report.background, report.count("missing_label")) == (3, 2, 2, 1)
    (tmp_path / "annotations" / "a.txt").unlink()
    (tmp_path / "annotations" / "c.txt").unlink()
    with refused("no-labels", r"annotations/a\.txt"):
        load(makers.config(tmp_path, train="list.txt", format="visdrone"))


@pytest.mark.parametrize(("labels", "text"), [("annotations", VIS), ("labelTxt", DOTA)])
def test_suffixes_in_capitals(tmp_path, labels, text):
    yaml = write(tmp_path, labels, text)
    for file in (tmp_path / labels).iterdir():
        file.rename(file.with_suffix(".TXT"))
    assert not load(yaml).report.findings and load(yaml).report.boxes


@pytest.mark.parametrize(("labels", "text"), [("annotations", VIS), ("labelTxt", DOTA)])
def test_a_damaged_first_row_hides_no_format(tmp_path, labels, text):
    report = load(write(tmp_path, labels, "1 2 3 ?\n" + text)).report
    assert report.count("corrupt_row") == 2 and report.boxes


@pytest.mark.parametrize(("labels", "text", "names"), [("annotations", VIS, None), ("labelTxt", DOTA, ["plane"])])
def test_pipes_are_no_label_files(tmp_path, labels, text, names):
    yaml = write(tmp_path, labels, text, names=names)
    (tmp_path / labels / "b.txt").unlink()
    os.mkfifo(tmp_path / labels / "b.txt")
    report = load(yaml).report
    assert report.count("corrupt_label") == 1 and "a folder, pipe or device" in report.format()


def test_converted_labels_stay_yolo_unless_the_yaml_says_otherwise(tmp_path):
    write(tmp_path, "annotations", VIS)
    yaml = write(tmp_path, "labels", "3 .5 .5 .2 .2\n", names=list(visdrone.CLASSES))
    assert load(yaml).source.format == "yolo" and load(yaml).report.boxes == 2
    assert load(makers.config(tmp_path, train="images", format="visdrone")).report.boxes == 4


def test_visdrone_names_choose_by_name_or_by_place(tmp_path):
    write(tmp_path, "annotations", VIS)
    some = load(makers.config(tmp_path, train="images", names=["car", "Awning_Tricycle"]))
    assert some.category_ids == [4, 8] and some.records[0].labels[~some.records[0].ignore].tolist() == [0]
    assert (some.report.count("other_class"), some.report.boxes, some.report.ignored) == (4, 2, 4)
    own = ["walker", *visdrone.CLASSES[1:]]
    index = load(makers.config(tmp_path, train="images", names=own))
    assert index.names == own and any("pedestrian as walker" in n for n in index.report.notes)
    for wrong in (["walker"], ["ignored regions", *visdrone.CLASSES, "others"], [*visdrone.CLASSES[:9], "car"],
                  ["walker", "bus", *visdrone.CLASSES[2:]]):
        with refused("unknown-class", r"set\.yaml", "`names`", "motor"):
            load(makers.config(tmp_path, train="images", names=wrong))
    with refused("unknown-class", "`nc`"):
        load(makers.config(tmp_path, train="images", nc=12))


def test_detections_in_ignored_regions_count_neither_way(tmp_path):
    """COCO's protocol ignores by class: a region of every class takes a detection of any."""
    index = load(write(tmp_path, "annotations", {"a": VIS}))
    collector = Collector(Truth.from_coco(index.coco(), index.category_ids))
    boxes = [[61, 6, 70, 20], [81, 41, 88, 49], [61, 6, 70, 20], [20, 10, 60, 40], [10, 20, 18, 28]]
    collector.update([index.records[0].image_id], [Detections(torch.tensor(boxes), torch.tensor([.9, .9, .9, .5, .5]),
                                                              torch.tensor([3, 0, 7, 3, 0]))])
    assert judge(collector.truth, collector.found())["AP"] > 0.999


def test_visdrone_rows_that_are_not_well_formed_are_counted(tmp_path):
    text = ("20,10,40,30,1,4,0,0\n1,2,3\n20,10,40,30,1,12,0,0\n20,10,40,x,1,4,0,0\n20,10,40,nan,1,4,0,0\n"
            "60,10,-20,20,1,4.0,0,0\n5,5,0,9,1,1,0,0\n20,10,40,30,1,4.5,0,0\n")
    report = load(write(tmp_path, "annotations", {"a": text})).report
    assert [report.count(k) for k in ("corrupt_row", "bad_class", "swapped", "no_area")] == [4, 1, 1, 1]
    assert report.boxes == 2 and "a.txt line 2: '1,2,3'" in report.findings["corrupt_row"][1]
    assert "a.txt line 3, category 12; VisDrone has 0 to 11" in report.findings["bad_class"][1]


def test_rows_of_csv_tools():
    report = ScanReport()
    text = '\ufeff"20.0","10.0","40.0","30.0","1","4","0","0"\n 20 , 10 , 40 , 30 , 1.0 , 4.0 , 0 , 0 ,\n'
    rows = visdrone.parse_rows(text.removeprefix("\ufeff"), "f.txt", report)
    assert [r[:6] for r in rows] == [(20, 10, 60, 40, 4, 1)] * 2 and not report.findings


whole = st.integers(0, 4000)


@given(st.lists(st.tuples(whole, whole, whole, whole, st.integers(0, 1), st.integers(0, 11), st.integers(0, 1),
                          st.integers(0, 2))), st.sampled_from([",", ", ", " ", ";"]), st.sampled_from(["", ","]),
       st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_visdrone_rows_round_trip(rows, between, tail, end):
    report = ScanReport()
    found = visdrone.parse_rows("".join(between.join(map(str, row)) + tail + end for row in rows), "f.txt", report)
    assert [(x, y, x2 - x, y2 - y, score, kind) for x, y, x2, y2, kind, score, _ in found] == [r[:6] for r in rows]
    assert not report.findings


@given(st.text())
def test_parsers_survive_any_text(text):
    for module in (visdrone, dota):
        report = ScanReport()
        rows = module.parse_rows(text, "f.txt", report)
        lines = [x for x in text.splitlines() if x.strip() and not (module is dota and dota.HEAD.match(x.strip()))]
        assert len(rows) + report.count("corrupt_row") + report.count("bad_class") == len(lines)


# DOTA

def test_dota_as_published(tmp_path):
    index = load(write(tmp_path, "labelTxt", DOTA, suffix=".png"))
    record, report = index.records[0], index.report
    assert index.source.format == "dota" and index.names == ["plane", "small-vehicle"] and not report.findings
    assert record.boxes.tolist() == [[20, 10, 60, 50], [70, 20, 90, 40]]
    assert record.labels.tolist() == [1, 0] and record.ignore.tolist() == [False, True]
    assert (report.images, report.boxes, report.ignored) == (2, 2, 2)
    assert report.notes == ["2 of 4 boxes are rotated: read as the upright boxes around them",
                            "2 difficult objects are ignore regions of their class"]
    kept = load(makers.config(tmp_path, train="images", difficult="keep"))
    assert (kept.report.boxes, kept.report.ignored) == (4, 0)
    outline = load(makers.config(tmp_path, train="images"), polygons=True).records[0].polygons[1]
    assert outline.tolist() == [[70, 30], [80, 20], [90, 30], [80, 40]]


@pytest.mark.parametrize(("images", "labels", "train", "suffix"), [
    ("train/images", "train/labelTxt", "train", ".png"),
    ("train/images", "train/labelTxt-v1.5", "train/images", ".tif"),
    ("train/images", "train/labelTxt-v2.0/DOTA-v2.0_train", "train/images", ".bmp"),
    ("images/train", "labelTxt/train", "images/train", ".png"),
    ("images/train", "labels/train", "images/train", ".png"),
    ("pictures", "boxes", {"images": "pictures", "annotations": "boxes"}, ".png"),
    ("flat", "flat", "flat", ".png"),
])
def test_dota_is_found_in_its_folders(tmp_path, images, labels, train, suffix):
    index = load(write(tmp_path, labels, DOTA, images, suffix, train=train))
    assert index.source.format == "dota" and (index.report.boxes, index.report.ignored) == (2, 2)


def test_two_versions_of_labels_are_for_the_user_to_choose(tmp_path):
    yaml = write(tmp_path, "labelTxt-v1.0", DOTA)
    write(tmp_path, "labelTxt-v1.5", DOTA.replace("small-vehicle", "ship"))
    with refused("ambiguous-folder", r"v1\.0, .*v1\.5") as error:
        load(yaml)
    images, labels = re.search(r"\{images: (.*), annotations: (.*)\}", str(error.value)).groups()
    chosen = makers.config(tmp_path, train={"images": images, "annotations": labels.replace("v1.0", "v1.5")})
    assert load(chosen).names == ["plane", "ship"]


def test_dota_names(tmp_path):
    write(tmp_path, "labelTxt", DOTA)
    index = load(makers.config(tmp_path, train="images", names=["small vehicle", "Plane"]))
    assert index.records[0].labels.tolist() == [0, 1] and not index.report.findings
    some = load(makers.config(tmp_path, train="images", names=["plane"]))
    assert some.report.count("other_class") == 2 and some.report.ignored == 2
    odd = load(write(tmp_path / "odd", "labelTxt", {"a": DOTA + "1 1 9 1 9 9 1 9 plan 0\n"}, names=["plane"]))
    assert "'plan'; did you mean 'plane'" in odd.report.findings["bad_class"][1]
    with refused("no-classes", "`nc: 3`", r"\[plane, small-vehicle\]"):
        load(makers.config(tmp_path, train="images", nc=3))


def test_dota_classes_are_those_of_all_splits(tmp_path):
    write(tmp_path, "labelTxt/val", {"c": "1 1 9 1 9 9 1 9 ship 0\n"}, "images/val")
    yaml = write(tmp_path, "labelTxt/train", DOTA, "images/train", val="images/val")
    assert load(yaml).names == load(yaml, "val").names == ["plane", "ship", "small-vehicle"]
    assert load(yaml, "val").records[0].labels.tolist() == [1]
    cached = load_index(yaml, "train")
    (tmp_path / "labelTxt/val/c.txt").write_text("1 1 9 1 9 9 1 9 harbor 0\n")
    assert cached.names != load_index(yaml, "train").names == ["harbor", "plane", "small-vehicle"]


def test_dota_rows_that_are_not_well_formed_are_counted(tmp_path):
    text = DOTA + ("1 2 3 plane 0\n1 1 9 1 9 9 1 x plane 0\n1 1 9 1 9 9 1 9\n5 5 5 5 5 5 5 5 plane 0\n"
                   "1 1 9 1 9 9 1 inf plane 0\n30,30,40,30,40,45,30,45,plane,0\n50 1 59 1 59 9 50 9 plane\n")
    report = load(write(tmp_path, "labelTxt", {"a": text, "b": "imagesource:x\n", "c": ""})).report
    assert [report.count(k) for k in ("corrupt_row", "no_area")] == [4, 1]
    assert (report.boxes, report.ignored, report.background) == (3, 1, 2)
    assert "a.txt line 5: '1 2 3 plane 0'; expected x1 y1" in report.findings["corrupt_row"][1]


corner = st.floats(-50, 5000, allow_nan=False).map(lambda v: round(v, 1))


@given(st.lists(st.tuples(st.lists(corner, min_size=8, max_size=8), st.sampled_from(dota.CLASSES),
                          st.sampled_from(["0", "1", "2", "1.0"]))), st.booleans())
def test_dota_rows_round_trip(rows, head):
    report = ScanReport()
    text = "imagesource:GoogleEarth\ngsd:null\n" * head
    text += "".join(" ".join([*map(str, corners), name, flag]) + "\n" for corners, name, flag in rows)
    found = dota.parse_rows(text, "f.txt", report)
    assert [row[:3] for row in found] == [(c, name, flag != "0") for c, name, flag in rows]
    assert not report.findings


@pytest.mark.parametrize("row", ["1 .1 .2 .5 .2 .5 .9 .1 .9", "1,.5,.5,.2,.2,.4,.4,2"])
def test_a_yolo_split_of_corners_or_keypoints_stays_yolo(tmp_path, row):
    assert read_source(write(tmp_path, "labels", row, names=["a", "b"]), "train").format == "yolo"


def test_the_shipped_configs_name_the_published_classes():
    for name, classes in (("visdrone", visdrone.CLASSES), ("dota", dota.CLASSES[:15])):
        content = read_yaml(CFG_ROOT / "data" / f"{name}.yaml")
        assert content["format"] == name and content["names"] == list(classes) and "download" not in content
