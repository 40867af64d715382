"""What is judged is the user's file as it stands: the numbers are those of pycocotools on it, to the last bit."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from data.index import Index, load_index
from engine.evaluation.collector import Collector
from engine.evaluation.metrics.judge import Metrics, judge
from engine.evaluation.metrics.reference import pycocotools_stats
from engine.evaluation.metrics.results_file import result_rows, write_results_file
from engine.evaluation.metrics.table import format_table
from engine.evaluation.results import compare_with_pycocotools
from tests.data import makers
from tests.data.coco_files import BOXES, SIDE, images_of, load, own, row, write
from utils.errors import UserError
from utils.structures import Detections


def judged(index: Index, seed: int = 0) -> Collector:
    """Detections on every image that can be read: the truth with noise, and boxes at random."""
    evaluator = Collector(index.truth)
    random = np.random.default_rng(seed)
    for record in index.records:
        boxes = np.concatenate((record.boxes, record.boxes + random.normal(0, 2, record.boxes.shape)))
        boxes = np.concatenate((boxes, np.sort(random.integers(0, 13, (20, 2, 2)) * 10, 1).reshape(-1, 4)))
        labels = np.concatenate((record.labels, record.labels, random.integers(0, len(index.names), 20)))
        scores = random.integers(1, 6, len(boxes)) / 8
        order = np.argsort(-scores, kind="stable")
        evaluator.update([record.image_id], [Detections(*(torch.tensor(column[order]) for column in
                                                          (boxes, scores, labels)))])
    return evaluator


def compute(collector: Collector) -> Metrics:
    return judge(collector.truth, collector.found())


def rows_of(collector: Collector) -> list[dict]:
    return result_rows(collector.truth, collector.found())


def compared(collector: Collector, metrics: Metrics, max_det: int | None = None) -> list[str]:
    return compare_with_pycocotools(collector.truth, collector.found(), metrics, max_det)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 14))
def test_any_file_that_pycocotools_can_read_gives_its_numbers(tmp_path, seed, count):
    """Boxes twice, without area, beyond the image; crowds, `ignore`; any area; images that are gone or listed twice."""
    random = np.random.default_rng(seed)
    ids = [[3, 1, 2], ["b", "a", "10"], [2.0, 7, -1]][seed % 3]
    images = images_of(ids)
    if random.random() < 0.3:
        images[2]["file_name"] = "gone.bmp"
    if random.random() < 0.3:
        images.append(images[0])
    rows = []
    for number in range(1, count + 1):
        box = BOXES[random.integers(len(BOXES))]
        area = [box[2] * box[3], 0, -1.0, 1024, 9216.0, 1e11, float("nan")][min(random.integers(0, 14), 6)]
        rows.append(row(number, ids[random.integers(3)], box, [9, 4, 9, 77][random.integers(4)], area=area,
                        iscrowd=int(random.random() < 0.2), ignore=int(random.random() < 0.3)))
        if random.random() < 0.3:
            rows.append({**rows[-1], "id": 1000 + number})
    rows.append(row(500, "nowhere", BOXES[0]))
    random.shuffle(rows)
    index = load(write(tmp_path, images, rows))
    evaluator = judged(index, seed)
    metrics = compute(evaluator)
    assert metrics.values == pycocotools_stats(own(tmp_path), rows_of(evaluator))
    if not index.truth.crowd.all():
        assert compared(evaluator, metrics)[-1] == (f"the twelve numbers are confirmed by pycocotools on "
                                                       f"{tmp_path / 'truth.json'}")


def test_repairs_are_for_training_only(tmp_path):
    """A quarter of the boxes twice: half as many of them are found as a file without would say."""
    rows = [row(k + 1, 1, [10 + 20 * k, 10, 16, 16]) for k in range(4)]
    index = load(write(tmp_path, images_of([1]), [*rows, {**rows[0], "id": 9}]))
    assert index.report.count("duplicate") == 1 and index.report.boxes == 4
    evaluator = Collector(index.truth)
    evaluator.update([1], [Detections(torch.tensor(index.records[0].boxes), torch.tensor([0.9, 0.8, 0.7, 0.6]),
                                      torch.ones(4, dtype=torch.int64))])
    metrics = compute(evaluator)
    assert metrics.n_labels == 5 and pytest.approx(4 / 5) == metrics["AR100"]
    assert pytest.approx(81 / 101) == metrics["AP"]
    assert metrics.values == pycocotools_stats(own(tmp_path), rows_of(evaluator))


@pytest.mark.parametrize(("change", "said"), [
    ({"iscrowd": "0"}, "1 `iscrowd` flags that are missing, null or a text"),
    ({"iscrowd": None}, "1 `iscrowd` flags that are missing, null or a text"),
    ({"iscrowd": "false", "area": None}, "1 areas that are missing, null or a text"),
    ({"area": "400.0"}, "1 areas that are missing, null or a text"),
    ({"id": None}, "1 annotation ids that are missing, null or a text"),
    ({"id": "a"}, "1 annotation ids that are missing, null or a text"),
    ({"id": 7.0}, ""),
    ({"image_id": "3"}, "`image_id` '3' for the id 3"), ({"image_id": 3.0}, ""),
    ({"category_id": "9"}, "`category_id` '9' for the id 9"), ({"category_id": 9.0}, ""),
    ({"bbox": ["10", "10", 20, 20.0]}, ""),
])
def test_what_json_tools_write_is_read_as_it_is_meant(tmp_path, change, said):
    rows = [{**row(1, 3, [10, 10, 20, 20]), **change}, row(2, 3, [60, 60, 30, 30], 4)]
    index = load(write(tmp_path, images_of([3]), rows))
    assert index.report.boxes == 2 and index.report.ignored == 0
    assert all(kind.startswith("meant_") for kind in index.report.findings)
    assert index.records[0].labels.tolist() == [1, 0] and index.records[0].areas.tolist() == [400, 900]
    assert index.truth.areas.tolist() == [400, 900] and not index.truth.crowd.any()
    assert said in index.report.format()
    evaluator = judged(index)
    metrics = compute(evaluator)
    try:
        as_it_stands = pycocotools_stats(own(tmp_path), rows_of(evaluator)) == metrics.values
    except ValueError:
        as_it_stands = False
    told = compared(evaluator, metrics)
    assert as_it_stands == (not said or change == {"id": None})
    assert told[-1].startswith("the twelve numbers are confirmed by pycocotools on" if as_it_stands else
                               "pycocotools gives the same twelve numbers on")
    assert as_it_stands or any(said in line for line in told)


@pytest.mark.parametrize("ids", [["x", "y"], ["007", "7"], ["1", "2"], [1.0, 2.0], [2 ** 70, 5]])
def test_results_carry_the_ids_of_the_file(tmp_path, ids):
    rows = [row(1, ids[0], [10, 10, 20, 20]), row(2, ids[1], [60, 60, 30, 30], "4")]
    index = load(write(tmp_path, images_of(ids), rows, [{"id": 9, "name": "cat"}, {"id": "4", "name": "dog"}]))
    assert [len(record) for record in index.records] == [1, 1] and index.names == ["dog", "cat"]
    evaluator = judged(index)
    assert {r["image_id"] for r in rows_of(evaluator)} == set(ids)
    assert {r["category_id"] for r in rows_of(evaluator)} == {9, "4"}
    assert all(len(evaluator.found().of(evaluator.place(record.image_id))[0]) for record in index.records)
    write_results_file(tmp_path / "predictions.json", evaluator.truth, evaluator.found())
    COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "predictions.json"))


def test_files_that_share_ids_are_judged_together_under_other_ids(tmp_path):
    write(tmp_path, images_of([1, 2]), [row(1, 1, BOXES[0]), row(2, 2, BOXES[1], 4)])
    (tmp_path / "more.json").write_text(json.dumps({**own(tmp_path), "images": [{"id": 1, "file_name": "3.bmp"}]}))
    makers.image(tmp_path / "images/3.bmp", SIDE, SIDE)
    entries = [{"images": "images", "annotations": name} for name in ("truth.json", "more.json")]
    index = load(makers.config(tmp_path, train=entries))
    evaluator = judged(index)
    assert [len(record) for record in index.records] == [1, 1, 1] and index.truth.image_ids == [1, 2, 3]
    told = compared(evaluator, compute(evaluator))
    assert told[0] == "note: the files share image ids: results number the images of all of them from 1 to 3"
    assert told[1:] == ["pycocotools gives the same twelve numbers on the annotations of truth.json and more.json"]
    (tmp_path / "more.json").write_text(json.dumps({**own(tmp_path), "categories": [{"id": 9, "name": "dog"}]}))
    with pytest.raises(UserError, match="category 9 is 'dog' here and 'cat' in truth.json"):
        load(makers.config(tmp_path, train=entries))


def test_ids_that_pycocotools_takes_otherwise_are_told(tmp_path):
    rows = [row(0, 1, [10, 10, 20, 20]), row(5, 1, [60, 60, 30, 30]), row(5, 2, [40, 60, 30, 30])]
    index = load(write(tmp_path, images_of([1, 2]), rows))
    assert index.report.boxes == 3 and "1 annotations whose `id` another has too" in index.report.format()
    evaluator = judged(index)
    told = "\n".join(compared(evaluator, compute(evaluator)))
    assert "as it stands gives other numbers: AP " in told and "confirmed" not in told
    assert "`id` 0" in told and "`id` another has too" in told
    assert told.endswith("on the annotations of truth.json, read as they are meant")


def test_a_file_that_pycocotools_cannot_judge_by_ends_in_a_sentence(tmp_path):
    bare = [{"image_id": 1, "category_id": 9, "bbox": [10, 10, 20, 20]}, {"id": 3, "image_id": 1, "category_id": 9}]
    index = load(write(tmp_path, images_of([1]), bare))
    evaluator = judged(index)
    metrics = compute(evaluator)
    told = "\n".join(compared(evaluator, metrics))
    assert metrics["AP50"] > 0.2 and "1 annotations are not well formed and are not judged" in told
    assert "truth.json as it stands (KeyError: " in told and "confirmed" not in told


def test_a_byte_order_mark_that_pycocotools_cannot_open_is_told(tmp_path):
    yaml = write(tmp_path, images_of([1]), [row(1, 1, BOXES[0])])
    (tmp_path / "truth.json").write_text(json.dumps(own(tmp_path)), encoding="utf-8-sig")
    evaluator = judged(load(yaml))
    told = compared(evaluator, compute(evaluator))
    assert "as it stands (it cannot open a file with a byte-order mark)" in told[0] and "confirmed" not in told[-1]
    with pytest.raises(UserError, match="`categories` is empty"):
        load(write(tmp_path, images_of([1]), [], []))


def test_an_id_of_two_images_is_told_and_teaches_nothing(tmp_path):
    images = [*images_of([1, 2]), {"id": 2, "file_name": "other.bmp", "height": SIDE, "width": SIDE}]
    index = load(write(tmp_path, images, [row(1, 1, BOXES[0]), row(2, 2, BOXES[1])]))
    assert index.report.count("shared_id") == 2 and not index.report.count("orphan")
    assert len(index) == 1 and index.report.boxes == 1 and "id 2 of 1.bmp and other.bmp" in index.report.format()
    assert compute(judged(index)).unseen == 1 and len(index.truth.image) == 2


def test_a_file_listed_under_two_ids_shows_the_labels_of_both(tmp_path):
    images = [{**image, "file_name": "0.bmp"} for image in images_of([1, 2])]
    index = load(write(tmp_path, images, [row(1, 1, BOXES[0]), row(2, 2, BOXES[1], 4)]))
    assert index.report.count("twin_image") == 2
    assert [sorted(record.labels.tolist()) for record in index.records] == [[0, 1], [0, 1]]
    evaluator = judged(index)
    assert "confirmed" in compared(evaluator, compute(evaluator))[-1] and len(index.truth.image) == 2


def test_parts_and_merged_classes_claim_no_more_than_was_compared(tmp_path):
    rows = [row(1, 1, BOXES[0]), row(2, 2, BOXES[1], 4), row(3, 2, BOXES[1], 4)]
    yaml = write(tmp_path, images_of([1, 2]), rows)
    part, merged = judged(load(yaml).subset([1])), judged(load(yaml, single_cls=True))
    assert part.truth.image_ids == [2] and compute(part).n_labels == 2
    assert compute(merged).n_labels == 3 and {r["category_id"] for r in rows_of(merged)} == {1}
    for evaluator, said in ((part, "on the 1 images of the annotations of truth.json"),
                            (merged, "on the annotations of truth.json, all classes taken as one")):
        assert compared(evaluator, compute(evaluator)) == [f"pycocotools gives the same twelve numbers {said}"]
    chosen = judged(load(write(tmp_path, images_of([1, 2]), rows, names=["dog"])))
    told = compared(chosen, compute(chosen))
    assert told[0] == "note: 1 classes that `names` leaves out are not judged" and "confirmed" not in told[-1]


def test_other_formats_tell_what_was_repaired(tmp_path):
    index = load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .4\n0 .5 .5 .2 .4\n1 .9 .5 .4 .4\n7 .5 .5 .1 .1"}))
    evaluator = judged(index)
    assert compared(evaluator, compute(evaluator)) == [
        "note: 1 labels of an unknown class (skipped), 1 boxes that reach out of their image (cut at its border), 1 "
        "boxes given twice (taken once) before they were judged",
        "pycocotools gives the same twelve numbers on the labels as read from the yolo files"]


def test_images_without_a_label_file_are_told_beside_the_number(tmp_path):
    evaluator = judged(load(makers.yolo(tmp_path, {"a.jpg": "0 .5 .5 .2 .4\n", "b.jpg": None})))
    assert compared(evaluator, compute(evaluator))[0] == (
        "note: 1 images without a label file (kept as background) before they were judged")


def test_without_labels_there_is_nothing_to_judge_by(tmp_path):
    evaluator = judged(load(write(tmp_path, images_of([1]), [])))
    assert compared(evaluator, compute(evaluator)) == [
        "there is nothing to judge by: the annotations of truth.json hold no object"]


@pytest.mark.parametrize(("area", "said"), [(0, "12 are 0, less, or no number"), (1.0, "12 are all the same number"),
                                            (1e-4, "less than a hundredth"), (10 ** 6, "12 are larger than their box")])
def test_areas_that_cannot_be_are_told_and_the_boxes_own_stand_beside(tmp_path, area, said):
    rows = [row(k, 1, [k, k, 5 * k, 5 * k], area=area) for k in range(1, 13)]
    index = load(write(tmp_path, images_of([1]), rows))
    assert index.report.count("odd_area") == 12 and index.counts().sum(0).tolist() == [6, 6, 0]
    evaluator = judged(index)
    metrics = compute(evaluator)
    assert said in format_table(metrics, index.names)
    beside, = metrics.alternatives
    right = {**own(tmp_path), "annotations": [{**r, "area": r["bbox"][2] * r["bbox"][3]} for r in rows]}
    assert beside.values == pycocotools_stats(right, rows_of(evaluator)) and beside.values["AP_M"] > 0
    assert metrics.values == pycocotools_stats(own(tmp_path), rows_of(evaluator)) and metrics["AP_M"] == -1


def test_ignore_and_uncertain_are_regions_in_training_and_told_beside_the_number(tmp_path):
    rows = [row(1, 1, BOXES[0], ignore=False, uncertain=False), row(2, 1, BOXES[1], ignore=True),
            row(3, 1, BOXES[4], ignore=0, uncertain="true")]
    index = load(write(tmp_path, images_of([1]), rows))
    assert index.records[0].ignore.tolist() == [False, True, True] and index.report.count("marked") == 2
    evaluator = judged(index)
    metrics = compute(evaluator)
    assert metrics.n_labels == 3 and "2 annotations are marked `ignore`" in format_table(metrics, index.names)
    crowds = {**own(tmp_path), "annotations": [{**r, "iscrowd": int(r["id"] > 1)} for r in rows]}
    assert metrics.alternatives[0].values == pycocotools_stats(crowds, rows_of(evaluator))


def test_more_objects_than_a_hundred(tmp_path):
    boxes = [[x * 6, y * 6, 5, 5] for y in range(20) for x in range(20)]
    index = load(write(tmp_path, images_of([4]), [row(k, 4, box) for k, box in enumerate(boxes, 1)]))
    evaluator = Collector(index.truth)
    evaluator.update([4], [Detections(torch.tensor(index.records[0].boxes), torch.linspace(0.9, 0.8, 400),
                                      torch.ones(400, dtype=torch.int64))])
    metrics = judge(evaluator.truth, evaluator.found(), index.names)
    assert metrics["AR100"] == 0.25 and pytest.approx(26 / 101) == metrics["AP"]
    beside, = metrics.alternatives
    assert beside.values["AP"] == pytest.approx(1) and beside.values["AR100"] == 1
    assert "image 4 has 400 objects of class cat" in (table := format_table(metrics, index.names))
    assert "AP@500" in table and "confirmed" in compared(evaluator, metrics)[-1]
    assert "image 4 has 400 objects and at most 300 are looked for" in compared(evaluator, metrics, 300)[0]


def test_windows_of_a_file_are_images_of_their_own(tmp_path):
    images = [{"id": k, "file_name": "big.bmp", "width": 64, "height": 128, "corner": [64 * k, 0, 64 * k + 64, 128]}
              for k in (0, 1, 2)]
    index = load(write(tmp_path, images, [row(1, 0, [5, 5, 20, 20]), row(2, 1, [30, 90, 34, 30])]))
    assert [record.window for record in index.records] == [(0, 0, 64, 128), (64, 0, 128, 128)]
    assert [(record.height, record.width, record.full) for record in index.records] == [(128, 64, (128, 128))] * 2
    assert index.records[1].boxes.tolist() == [[30, 90, 64, 120]] and index.report.findings.keys() == {"bad_window"}
    assert "confirmed" in compared(evaluator := judged(index), compute(evaluator))[-1]
    with pytest.raises(UserError, match="is no window"):
        load(write(tmp_path, [{**images[0], "corner": [9, 0, 3]}], []))


def test_coco_tiny_is_judged_by_its_own_file(real_data):
    evaluator = judged(load_index(real_data("coco-tiny"), "val"))
    metrics = compute(evaluator)
    told, = compared(evaluator, metrics)
    assert told.startswith("the twelve numbers are confirmed by pycocotools on ")
    assert told.endswith("/coco-tiny/annotations/instances_val2017.json")
    assert not metrics.alternatives and metrics.n_labels == 804
