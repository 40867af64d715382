"""COCO files as tools write them wrongly: each is refused or told with the place and the cure, never half read."""

import json

import pytest

from data.doctor.checks import compare_classes, verdict
from data.index import load_index
from tests.data import makers
from tests.refusals import refused

FILE = "annotations/instances_train2017.json"


def annotation(number, category, box=(10, 10, 20, 20), **words):
    return {"id": number, "image_id": (7, 5)[number % 2], "category_id": category, "bbox": list(box), "iscrowd": 0,
            "area": box[2] * box[3], **words}


def load(tmp_path, annotations, change=None, encode=None, **words):
    """The index of an annotation file after a change of its content."""
    yaml = makers.coco(tmp_path, annotations, **words)
    content = json.loads((tmp_path / FILE).read_text())
    if change:
        change(content)
    text = json.dumps(content, ensure_ascii=False)
    (tmp_path / FILE).write_bytes(encode(text) if encode else text.encode())
    return load_index(yaml, "train", cache=False)


@pytest.mark.parametrize("step", [-1, 1])
def test_category_ids_that_count_from_another_number_are_refused(tmp_path, step):
    def change(content):
        content["categories"] = [{"id": k, "name": n} for k, n in ((1, "cat"), (2, "dog"), (3, "cow"))]
    rows = [annotation(k, 1 + k % 3 + step) for k in range(9)]
    with refused("shifted-class-ids", "instances_train2017.json", "`category_id`"):
        load(tmp_path, rows, change)


def test_one_annotation_of_another_category_is_only_counted(tmp_path):
    def change(content):
        content["categories"] = [{"id": k, "name": n} for k, n in ((1, "cat"), (2, "dog"))]
    index = load(tmp_path, [annotation(k, 1, (10, 10, 20 + k, 20)) for k in range(30)] + [annotation(31, 0)], change)
    assert index.report.boxes == 30 and index.report.count("bad_class") == 1


@pytest.mark.parametrize("value", [{"1": {}}, "none", 3])
def test_annotations_that_are_no_list_are_refused(tmp_path, value):
    with refused("bad-value", "`annotations`"):
        load(tmp_path, [], lambda content: content.update(annotations=value))


@pytest.mark.parametrize("encoding", ["utf-16", "gbk"])
def test_files_in_another_encoding_are_told_with_the_cure(tmp_path, encoding):
    def change(content):
        content["categories"][0]["name"] = "汽车"
    with refused("not-utf8", "instances_train2017.json"):
        load(tmp_path, [annotation(1, 1)], change, lambda text: text.encode(encoding))


def test_a_category_id_for_two_names_is_refused(tmp_path):
    with refused("duplicate-class", "category 1", "'cat'", "'cow'"):
        load(tmp_path, [annotation(1, 1)], lambda content: content["categories"].append({"id": 1, "name": "cow"}))


def test_a_chosen_name_of_two_categories_is_refused(tmp_path):
    with refused("duplicate-class", "'cat'", "1 and 9"):
        load(tmp_path, [annotation(1, 1)], lambda content: content["categories"].append({"id": 9, "name": "cat"}),
             names=["cat", "dog"])


def test_fractions_are_refused_where_no_size_is_told_too(tmp_path):
    def change(content):
        for image in content["images"]:
            del image["width"], image["height"]
    with refused("wrong-units"):
        load(tmp_path, [annotation(k, 1, (0.1, 0.2, 0.3, 0.25)) for k in range(4)], change)


@pytest.mark.parametrize("words, said", [
    ({"bbox": [1, 2, 3, 4, 0.5]}, "annotation 2: `bbox` [1, 2, 3, 4, 0.5] should be four numbers"),
    ({"bbox": None, "segmentation": {"counts": [3, 4], "size": [2, 2]}}, "annotation 2 without `bbox`"),
    ({"image_id": None, "bbox": None}, "annotation 2 without `image_id`")])
def test_annotations_that_cannot_be_used_say_why(tmp_path, words, said):
    index = load(tmp_path, [annotation(1, 1), annotation(2, 1, **words)])
    assert index.report.boxes == 1 and said in index.report.findings["corrupt_row"][1]


def test_names_may_have_a_class_that_this_file_lacks(tmp_path):
    index = load(tmp_path, [annotation(1, 1), annotation(2, 3)], names=["cow", "dog", "cat"])
    assert sorted(index.records.labels.tolist()) == [1, 2] and len(set(index.category_ids)) == 3
    assert index.category_ids[1:] == [3, 1] and "no category 'cow': no object of it here" in index.report.format()
    with refused("unknown-class", "`names`", "'cow'", "instances_train2017.json"):
        load(tmp_path, [annotation(1, 1)], names=["cow", "dog"])


def test_splits_of_other_classes_are_told_with_both_lists(tmp_path):
    one, two = (load(tmp_path / name, [annotation(1, 1)], lambda c, name=name: c["categories"][0].update(name=name))
                for name in ("cow", "horse"))
    finding = compare_classes({"train": one, "val": two})[0]
    assert finding.level == "broken" and "train has cat, cow; val has cat, horse" in finding.format()
    assert verdict([finding])[1][0].count("`names:`") == 1
