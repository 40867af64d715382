"""Anyone's results files: read as they stand, or refused by one sentence; slips are explained and not repaired."""

import json

import numpy as np
import pytest

from data.truth import truth_of_file
from engine.evaluation.comparison.results_reader import Results, read_results
from tests.engine.evaluation.comparison.kit import write_json
from tests.refusals import refused, user_error

# COCO's ids have gaps: 80 classes have the ids 1 to 90.
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [i for i in range(1, 91) if i not in GAPS]


def truth_file(folder, ids=(7, 3), categories=(1, 2, 4), objects=2):
    annotations = [{"id": 1 + k, "image_id": ids[k % len(ids)], "category_id": categories[k % len(categories)],
                    "bbox": [50.0 * (k // len(ids)), 40, 30, 30], "area": 900, "iscrowd": 0} for k in range(objects)]
    content = {"images": [{"id": i} for i in ids], "annotations": annotations,
               "categories": [{"id": i, "name": f"class {i}"} for i in categories]}
    return write_json(folder / "truth.json", content)


def row(image=7, category=1, bbox=(0, 40, 30, 30), score=0.5, **more) -> dict:
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score, **more}


def read(folder, rows, **words) -> Results:
    truth, names = truth_of_file(truth_file(folder, **words))
    return read_results(write_json(folder / "results.json", rows), truth, names)


def test_numbers_are_taken_as_they_are_written(tmp_path):
    found = read(tmp_path, [row(3, 4, [1.123456789, 2, 3, 4], 0.123456789), row(7, 1), row(3, 2, score=1)]).found
    assert found.images.tolist() == [0, 1, 1] and found.labels.tolist() == [0, 2, 1]
    assert found.boxes[1].tolist() == [1.123456789, 2, 3, 4] and found.scores.tolist() == [0.5, 0.123456789, 1]
    assert found.seen.all()


@pytest.mark.parametrize(("ids", "written", "said"), [
    ((7, 3), 7, []), ((7, 3), 7.0, []), ((7, 3), "7", ["image_id '7' is read as the id 7"]),
    ((7, 3), "000000000007", ["image_id '000000000007' is read as the id 7"]),
    (("a", "b"), "a", []), (("007", "7"), "007", []), ((2 ** 60, 3), 2 ** 60, [])])
def test_ids_are_numbers_or_texts(tmp_path, ids, written, said):
    results = read(tmp_path, [row(written)], ids=ids)
    assert results.found.images.tolist() == [0]
    assert results.notes == [f"results.json: {line}" for line in [*said, "1 of 2 images have no detection"]]


@pytest.mark.parametrize(("rows", "code", "said"), [
    ({"images": [], "annotations": [], "categories": []}, "not-results", "annotation file, not results"),
    ({"a": 1}, "not-results", "are a list of image_id, category_id, bbox, score"), (5, "not-results", "holds 5"),
    ([row(), 5], "bad-row", "row 2 is 5"), ([{"image_id": 7}], "bad-row", "row 1 has no `category_id`"),
    ([row(score=None)], "bad-row", "has no `score`"), ([row(score="high")], "bad-row", "`score` 'high' is no number"),
    ([row(bbox=[1, 2, 3])], "bad-row", "four numbers"), ([row(bbox="abcd")], "bad-row", "four numbers"),
    ([row(bbox=["1", "2", "3", "4"])], "bad-row", "four numbers"), ([row(bbox={})], "bad-row", "four numbers"),
    ([row(bbox=[1, 2, 3, None])], "bad-row", "four numbers"), ([row([7])], "bad-row", "`image_id`"),
    ([row(bbox=[1, 2, 3, 10 ** 400])], "bad-row", "four numbers"),
    ([{"image_id": 7, "category_id": 1, "segmentation": [[1, 2]], "score": 1}], "bad-row", "only boxes are judged"),
    ([row(), row(score=float("nan"))], "not-finite", "row 2 has a number that is not finite"),
    ([row(bbox=[0, 0, float("inf"), 1])], "not-finite", "row 1"),
    ([row(), row(99)], "unknown-id", "row 2 has image_id 99, which truth.json has not"),
    ([row("a.jpg")], "unknown-id", "file names are no ids"),
    ([row(category="cat")], "unknown-class", "row 1 has category_id 'cat'"),
    ([row(category=99)], "unknown-class", "ids 1 to 4"),
])
def test_what_cannot_be_judged_is_refused(tmp_path, rows, code, said):
    with user_error(code, "results.json", said):
        read(tmp_path, rows)


def test_what_is_no_json_is_refused(tmp_path):
    truth, names = truth_of_file(truth_file(tmp_path))
    for content, code in ((b'[{"image_id": 7', "invalid-json"), (b"", "invalid-json"), (b"[\xff]", "not-utf8"),
                          (b"[" * 100_000, "invalid-json")):
        (tmp_path / "results.json").write_bytes(content)
        with refused(code, "results.json"):
            read_results(tmp_path / "results.json", truth, names)
    with refused("unreadable-file"):
        read_results(tmp_path / "nowhere.json", truth, names)


@pytest.mark.parametrize(("written", "said"), [
    (range(80), "from 0 without gaps: write the file's id of each class (0 should be 1, class 1)"),
    (range(1, 81), "from 1 without gaps: write the file's id of each class (12 should be 13, class 13)"),
    ([0, 16], "from 0 without gaps"), ([91, 5], "ids 1 to 90; write the id"), (["1", "x"], "write the id")])
def test_classes_without_the_gaps_of_coco_are_explained(tmp_path, written, said):
    with user_error("unknown-class", said):
        read(tmp_path, [row(category=c) for c in written], categories=COCO_IDS)


def test_classes_that_all_exist_are_checked_on_the_objects(tmp_path):
    """Classes 13 to 25 numbered without gaps are ids of the file too: nothing is unknown, and all are wrong."""
    truth, names = truth_of_file(truth_file(tmp_path, categories=COCO_IDS, objects=40))
    truth.label[:] = np.arange(40) % 12 + 12  # of the ids 14 to 25
    rows = [row(truth.image_ids[i], k + 1, box.tolist()) for i, k, box in
            zip(truth.image, truth.label.tolist(), truth.boxes, strict=True)]
    assert {r["category_id"] for r in rows} <= set(COCO_IDS)
    notes = read_results(write_json(tmp_path / "r.json", rows), truth, names).notes
    assert "0% have its class, and 100% would if category_id numbered the 80 classes from 1 without gaps" in notes[-1]
    right = [{**r, "category_id": truth.category_ids[k]} for r, k in zip(rows, truth.label, strict=True)]
    assert not [n for n in read_results(write_json(tmp_path / "r.json", right), truth, names).notes if "warning" in n]


def test_boxes_as_corners_or_fractions_are_told(tmp_path):
    truth, names = truth_of_file(truth_file(tmp_path, objects=40))

    def notes(boxes: np.ndarray) -> str:
        rows = [row(truth.image_ids[i], truth.category_ids[k], box.tolist()) for i, k, box in
                zip(truth.image, truth.label, boxes, strict=True)]
        return " ".join(read_results(write_json(tmp_path / "r.json", rows), truth, names).notes)

    corners = truth.boxes.copy()
    corners[:, 2:] += corners[:, :2]
    assert "are they corners?" in notes(corners)
    assert "fractions of the image" in notes(truth.boxes / 2000)
    assert notes(truth.boxes) == ""


def test_an_empty_list_is_judged_and_outlines_and_negative_sizes_are_told(tmp_path):
    results = read(tmp_path, [])
    assert len(results.found) == 0 and results.notes == ["results.json: 2 of 2 images have no detection"]
    rows = [row(segmentation=[[0, 0, 1, 1, 2, 2]]), row(3, bbox=[5, 5, -2, 4])]
    assert read(tmp_path, rows).notes == ["results.json: 1 rows have a `segmentation`: their `bbox` is judged",
                                          "results.json: 1 boxes have a negative width or height: they overlap nothing"]


def test_a_truth_without_names_is_enough_to_judge_by(tmp_path):
    content = {"images": [{"id": 7}], "categories": [{"id": 1}], "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"id": 2, "image_id": 9, "category_id": 1,
                                                                         "bbox": [0, 0, 5, 5]}]}
    truth, names = truth_of_file(write_json(tmp_path / "truth.json", content))
    assert names == ["1"] and truth.areas.tolist() == [25]
    assert truth.notes == ["1 labels of an image that is not listed are not judged, the first: "
                           f"{tmp_path / 'truth.json'} annotation 2 (image_id 9)"]
    assert json.dumps(truth.to_coco())
