"""Each format is read as it is written, and what cannot be read is told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.formats.parsing.yolo_rows import parse_rows
from data.formats.paths import label_file
from data.formats.raw_labels import ids_from_names
from data.index import load_index
from data.labels.scan_report import ScanReport
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from tests.data import makers
from tests.refusals import refused


def load(yaml, split="train", **options):
    return load_index(yaml, split, cache=False, **options)


# YOLO

def test_yolo_rows_become_pixels(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "1 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.2 0.2\n", "b.jpg": ""}))
    a, b = index.records
    np.testing.assert_allclose(a.boxes, [[40, 18, 60, 42], [0, 0, 20, 12]], atol=1e-4)
    assert a.labels.tolist() == [1, 0] and a.boxes.dtype == np.float32 and a.labels.dtype == np.int64
    assert (a.height, a.width) == (makers.HEIGHT, makers.WIDTH)
    assert len(b) == 0 and b.boxes.shape == (0, 4)
    assert (index.report.images, index.report.boxes, index.report.background) == (2, 2, 1)
    assert not index.report.findings


def test_yolo_polygon_becomes_its_box(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 0.1 0.2 0.5 0.2 0.3 0.9"}))
    np.testing.assert_allclose(index.records[0].boxes, [[10, 12, 50, 54]], atol=1e-4)


def test_yolo_list_files_and_several_entries(tmp_path):
    yaml = makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2", "b.jpg": "0 .5 .5 .2 .2", "c.jpg": "0 .5 .5 .2 .2"},
                       train=["one.txt", "two.txt"])
    (tmp_path / "one.txt").write_text("./images/train/a.jpg\n\nimages/train/gone.jpg\n")
    (tmp_path / "two.txt").write_text(f"{tmp_path}/images/train/b.jpg\nimages/train/a.jpg\n")
    index = load(yaml)
    assert [r.path[-5:] for r in index.records] == ["a.jpg", "b.jpg"]
    assert index.report.count("missing_image") == 1 and index.report.count("repeated_image") == 1


def test_yolo_words_of_users(tmp_path, monkeypatch):
    """names as a dict, nc, an empty test:, no path, ../ as Roboflow writes it, and keys of others."""
    makers.yolo(tmp_path, {"1.jpg": "0 .5 .5 .2 .2", "22.jpg": ""})
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: ../images/train\ntest:\nnc: 2\nnames: {0: cat, 1: dog}\ndownload: https://x.zip\nnmes: 3\n")
    monkeypatch.chdir("/")
    index = load(yaml)
    assert index.names == ["cat", "dog"] and index.category_ids == [1, 2]
    assert [r.image_id for r in index.records] == [1, 22]
    assert any("download" in n for n in index.report.notes) and any("'names'" in n for n in index.report.notes)
    with refused("missing-split", "`test:`"):
        load(yaml, "test")


def test_yolo_missing_labels_are_background_unless_all_are(tmp_path):
    index = load(makers.yolo(tmp_path / "some", {"a.jpg": "0 .5 .5 .2 .2", "b.jpg": None}))
    assert index.report.count("missing_label") == 1 and len(index) == 2
    with refused("no-labels", r"labels/train/a\.txt"):
        load(makers.yolo(tmp_path / "none", {"a.jpg": None}))


def test_nc_alone_numbers_the_classes(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "1 .5 .5 .2 .2"}, names=None, nc=2))
    assert index.names == ["class0", "class1"]


@pytest.mark.parametrize(("words", "code", "said"), [
    ({"names": None}, "no-classes", "`names`"),
    ({"nc": 3}, "key-conflict", "`nc: 3`"),
    ({"names": {0: "cat", 2: "dog"}}, "bad-value", "`names`.* 0 to 1"),
    ({"names": "cat"}, "bad-value", "`names`"),
    ({"format": "yoloo"}, "unknown-value", "'yolo'"),
    ({"train": "images/trian"}, "missing-file", "images/trian"),
    ({"path": "/no/such/folder"}, "missing-file", "/no/such/folder"),
    ({"train": 3}, "bad-value", "`train:`"),
])
def test_wrong_yaml_is_one_sentence(tmp_path, words, code, said):
    with refused(code, said, "set.yaml") as error:
        load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .2"}, **words))
    assert "set.yaml" in str(error.value) and "\n" not in str(error.value)


def test_label_file_replaces_the_last_images_folder():
    assert label_file("/x/images/y/images/a/b.c.jpg") == "/x/images/y/labels/a/b.c.txt"
    assert label_file("/x/pictures/b.jpg") == "/x/pictures/b.txt"


def test_ids_from_names():
    assert ids_from_names(["a/000012.jpg", "b/7.jpg"]) == [12, 7]
    assert ids_from_names(["a/12.jpg", "b/x.jpg"]) == [1, 2]
    assert ids_from_names(["a/12.jpg", "b/012.jpg"]) == [1, 2]
    assert ids_from_names([]) == []


@given(st.text())
def test_yolo_parser_survives_any_text(text):
    report = ScanReport()
    rows = parse_rows(text, "f.txt", report)
    assert rows.shape[1] == 6 and np.isfinite(rows).all()
    assert len(rows) + report.count("corrupt_row") == sum(bool(line.split()) for line in text.splitlines())


fraction = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 99), fraction, fraction, fraction, fraction)))
def test_yolo_rows_round_trip(rows):
    report = ScanReport()
    parsed = parse_rows("\n".join(" ".join(map(repr, row)) for row in rows), "f.txt", report)
    x1, y1, x2, y2 = parsed[:, 1:5].T
    back = np.stack((parsed[:, 0], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1)
    np.testing.assert_allclose(back, np.array(rows, float).reshape(-1, 5), atol=1e-12)
    assert not report.findings


# COCO

def annotation(number, **words):
    return {"id": number, "image_id": 7, "category_id": 1, "bbox": [10.5, 20.25, 30, 10], "area": 120.5, "iscrowd": 0,
            **words}


def test_coco_round_trip(tmp_path):
    given_annotations = [annotation(11), annotation(12, category_id=3, iscrowd=1, bbox=[0, 0, 100, 60]),
                         annotation(13, image_id=5, bbox=[1.37, 2.01, 3.33, 4.44], area=14.0)]
    index = load(makers.coco(tmp_path, given_annotations))
    assert index.names == ["cat", "dog"] and index.category_ids == [1, 3]
    first, second = index.records
    assert first.image_id == 7 and first.labels.tolist() == [0, 1] and first.ignore.tolist() == [False, True]
    assert first.annotation_ids.tolist() == [11, 12] and first.areas.tolist() == [120.5, 120.5]
    np.testing.assert_allclose(second.boxes, [[1.37, 2.01, 4.70, 6.45]], rtol=1e-6)
    truth = index.coco()
    assert sorted(truth["annotations"], key=lambda a: a["id"]) == given_annotations
    assert [i["id"] for i in truth["images"]] == [7, 5] and truth["categories"][1] == {"id": 3, "name": "dog"}
    assert index.report.ignored == 1 and index.report.boxes == 2


def test_coco_images_without_objects_stay_as_background_and_crowds_are_no_objects(tmp_path):
    """SSD's public COCO loaders drop such images, and learn crowds."""
    index = load(makers.coco(tmp_path, [annotation(1), annotation(2, iscrowd=1, bbox=[0, 0, 50, 40])]), strict=True)
    report = index.report
    assert [len(record) for record in index.records] == [2, 0] and index.records[1].image_id == 5
    assert (report.images, report.boxes, report.ignored, report.background) == (2, 1, 1, 1)
    batch = next(iter(eval_loader(index, 64, LoaderConfig(2, workers=0))))
    assert batch.targets.valid.sum(1).tolist() == [1, 0] and batch.targets.ignore.sum(1).tolist() == [1, 0]


def test_coco_forms_of_the_yaml(tmp_path):
    yaml = makers.coco(tmp_path, [annotation(1)])
    by_file = load(yaml).records[0].path
    words = {"images": "train2017", "annotations": "annotations/instances_train2017.json"}
    assert load(makers.config(tmp_path, train=words)).records[0].path == by_file
    with refused("bad-value", "images", "annotations"):
        load(makers.config(tmp_path, train={"annotations": "annotations/instances_train2017.json"}))


def test_coco_names_choose_and_order(tmp_path):
    annotations = [annotation(1), annotation(2, category_id=3, bbox=[1, 1, 5, 5])]
    index = load(makers.coco(tmp_path, annotations, names=["dog"]), strict=True)
    assert index.category_ids == [3] and index.report.boxes == 1 and index.report.count("other_class") == 1
    with refused("unknown-class", "'dgo'", "'dog'"):
        load(makers.coco(tmp_path, annotations, names=["dgo"]))
    with refused("key-conflict", "`nc: 3`", "2 categories"):
        load(makers.coco(tmp_path, annotations, nc=3))


def test_coco_bad_annotations_are_counted(tmp_path):
    index = load(makers.coco(tmp_path, [
        annotation(1), annotation(2, category_id=99), annotation(3, image_id=1), annotation(4, bbox=[1, 2, 3]),
        annotation(5, bbox=[1, 2, float("nan"), 3]), annotation(6, bbox=None), "text", {"id": 8}]))
    report = index.report
    assert report.boxes == 1
    assert [report.count(k) for k in ("bad_class", "orphan", "corrupt_row")] == [1, 1, 5]
    assert "category_id 99" in report.format()


def test_coco_ids_that_are_words(tmp_path):
    yaml = makers.coco(tmp_path, [annotation(1, image_id="x")])
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"][0]["id"] = "x"
    file.write_text(json.dumps(content))
    index = load(yaml)
    assert [r.image_id for r in index.records] == [1, 2] and len(index.records[0]) == 1
    assert any("1 to n" in note for note in index.report.notes)


def test_coco_without_annotations_is_for_testing(tmp_path):
    yaml = makers.coco(tmp_path, [], test="annotations/instances_train2017.json")
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    assert load(yaml, "test").report.background == 2
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    with refused("no-images", r"a\.jpg"):
        load(yaml, "test")


def test_truncated_json_is_one_sentence(tmp_path):
    yaml = makers.coco(tmp_path, [annotation(1)])
    makers.truncate(tmp_path / "annotations" / "instances_train2017.json")
    with refused("invalid-json", "instances_train2017.json"):
        load(yaml)


def test_coco_tiny(shared, real_data):
    index = load(real_data("coco-tiny"), "val")
    assert len(index) == 80 and (index.report.boxes, index.report.ignored) == (804, 11)
    with (shared / "data/coco-tiny/annotations/instances_val2017.json").open() as file:
        original = json.load(file)
    ours = {a["id"]: a for a in index.coco()["annotations"]}
    for theirs in original["annotations"]:
        mine = ours.pop(theirs["id"])
        assert mine["bbox"] == theirs["bbox"] and mine["area"] == pytest.approx(theirs["area"], rel=1e-6)
        assert (mine["iscrowd"], mine["category_id"]) == (theirs["iscrowd"], theirs["category_id"])
    assert not ours and len(load(real_data("coco-tiny"), "train")) == 80


# Pascal VOC

def test_voc_corners_count_from_one(tmp_path):
    objects = makers.xml_object("dog", 1, 1, 100, 60) + makers.xml_object("cat", 11.0, 21, 30, 40, difficult=1)
    yaml = makers.voc(tmp_path, {"a": makers.xml(objects)})
    index = load(yaml)
    record = index.records[0]
    assert record.boxes.tolist() == [[0, 0, 100, 60], [10, 20, 30, 40]]
    assert record.labels.tolist() == [1, 0] and record.ignore.tolist() == [False, True]
    assert index.source.format == "voc" and not index.report.findings
    kept = load(makers.voc(tmp_path, {"a": makers.xml(objects)}, difficult="keep"))
    assert not kept.records[0].ignore.any()


def test_voc_wrong_claims_are_told_and_not_believed(tmp_path):
    head = "<folder>{}</folder><filename>{}</filename><size><width>{}</width><height>{}</height></size>"
    cat = makers.xml_object("cat", 11, 21, 30, 40)
    index = load(makers.voc(tmp_path, {
        "a": makers.xml(cat, head.format("JPEGImages", "a.jpg", 100, 60)),
        "b": makers.xml(cat, head.format("JPEGImages", "other.jpg", 100, 60)),
        "c": makers.xml(cat, head.format("elsewhere", "c.jpg", 100, 60)),
        "d": makers.xml(cat, head.format("JPEGImages", "d.png", 60, 100))}))
    assert index.report.boxes == 4 and index.report.count("wrong_name") == 2 and index.report.count("wrong_size") == 1
    assert "says 60x100" in index.report.format() and (index.records[3].height, index.records[3].width) == (60, 100)



@pytest.mark.parametrize("height", [-(2**63) - 1, 10**40, -1])
def test_a_size_that_coco_cannot_mean_is_told(tmp_path, height):
    yaml = makers.coco(tmp_path, [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400}])
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace(f'"height": {makers.HEIGHT}', f'"height": {height}', 1))
    index = load(yaml)
    assert index.report.count("wrong_size") == 1 and index.report.boxes == 1


def test_voc_bad_files_and_objects_are_counted(tmp_path):
    cat = makers.xml_object("cat", 11, 21, 30, 40)
    bomb = f'<!DOCTYPE x [<!ENTITY a "b">]>{makers.xml(cat)}'
    index = load(makers.voc(tmp_path, {
        "whole": makers.xml(cat), "cut": makers.xml(cat)[:-20], "bomb": bomb, "none": None,
        "odd": makers.xml(makers.xml_object("cta", 1, 1, 9, 9) + makers.xml_object("cat", 1, "x", 9, 9) +
                          makers.xml_object("cat", 1, 1, 9))}))
    report = index.report
    assert [r.path.rsplit("/", 1)[1] for r in index.records] == ["whole.jpg", "none.jpg", "odd.jpg"]
    assert [report.count(k) for k in ("corrupt_label", "missing_label", "bad_class", "corrupt_row")] == [2, 1, 1, 2]
    assert "did you mean 'cat'" in report.format() and "document type" not in report.findings["corrupt_label"][1]


def test_voc_folder_and_missing_names(tmp_path):
    yaml = makers.voc(tmp_path, {"a": makers.xml(makers.xml_object("fox", 11, 21, 30, 40))}, train="Annotations",
                      names=None)
    with refused("no-classes", "`names`", "fox"):
        load(yaml)
    beside = tmp_path / "flat"
    makers.image(beside / "x.png")
    (beside / "x.xml").write_text(makers.xml(makers.xml_object("cat", 11, 21, 30, 40)))
    for train in ("Annotations", ".", "flat"):
        words = {"train": train, "names": ["fox", "cat"]}
        assert load(makers.config(tmp_path, **words)).report.boxes == 1


def test_bccd(real_data):
    reports = [load(real_data("bccd"), split).report for split in ("train", "val", "test")]
    assert [r.images for r in reports] == [205, 87, 72]
    assert sum(r.boxes for r in reports) == 4886 and sum(r.count("no_area") for r in reports) == 2
    assert sum(r.count("wrong_name") for r in reports) == 3


def test_a_box_that_float32_makes_flat_is_counted_as_without_area(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 1e-12 .2\n0 .5 .5 .2 .2\n"}))
    assert index.report.count("no_area") == 1 and index.report.boxes == 1
