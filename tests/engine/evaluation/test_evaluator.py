"""The evaluator against pycocotools used by hand, against yolov7's curves, and at the edges."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.evaluation.collector import Collector
from engine.evaluation.metrics.curves import CONFIDENCES, confidence_curves
from engine.evaluation.metrics.engine import PycocotoolsEngine
from engine.evaluation.metrics.judge import Metrics, judge, stats_of
from engine.evaluation.metrics.protocol import COCO as PROTOCOL
from engine.evaluation.metrics.reference import STAT_NAMES
from engine.evaluation.metrics.results_file import result_rows, write_results_file
from engine.evaluation.metrics.table import format_table
from tests.refusals import refused
from utils.structures import Detections
from utils.truth import Truth


def truth(boxes: dict[int, list[list[float]]], categories=(1,), crowd=()) -> dict:
    """image id -> rows x, y, w, h, category."""
    rows = [(image, row) for image, found in boxes.items() for row in found]
    return {"images": [{"id": image} for image in boxes],
            "categories": [{"id": c, "name": str(c)} for c in categories],
            "annotations": [{"id": i, "image_id": image, "bbox": row[:4], "category_id": row[4],
                             "area": row[2] * row[3], "iscrowd": int(i in crowd)}
                            for i, (image, row) in enumerate(rows)]}


def found(rows: list[list[float]]) -> Detections:
    """Rows x, y, w, h, score, label, in any order; of equal scores the first row stays first."""
    table = torch.tensor(sorted(rows, key=lambda row: -row[4])).reshape(-1, 6)
    return Detections(torch.cat((table[:, :2], table[:, :2] + table[:, 2:4]), 1), table[:, 4], table[:, 5].long())


def collect(content: dict, categories: list) -> Collector:
    return Collector(Truth.from_coco(content, categories))


def compute(collector: Collector) -> Metrics:
    return judge(collector.truth, collector.found())


def reference(collector: Collector) -> dict[str, float]:
    return stats_of(PycocotoolsEngine(collector.truth, collector.found()).accumulate(PROTOCOL), PROTOCOL)


def rows_of(collector: Collector) -> list[dict]:
    return result_rows(collector.truth, collector.found())


def by_hand(ground_truth: dict, results: list[dict]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(ground_truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def perturbed(ground_truth: dict, categories: list[int], seed: int) -> dict[int, Detections]:
    """Shifted boxes, some with a wrong class, some missing, many false ones: what a model says."""
    random = np.random.default_rng(seed)
    answer = {}
    for image in ground_truth["images"]:
        rows = []
        for row in ground_truth["annotations"]:
            if row["image_id"] == image["id"] and random.random() < 0.9:
                x, y, w, h = row["bbox"]
                label = categories.index(row["category_id"])
                label = random.integers(len(categories)) if random.random() < 0.1 else label
                shift = random.normal(0, 0.08, 4) * (w, h, w, h)
                rows.append([x + shift[0], y + shift[1], w + abs(shift[2]), h + abs(shift[3]), random.random(), label])
        rows += [[*random.random(2) * 400, *random.random(2) * 200, random.random() * 0.6,
                  random.integers(len(categories))] for _ in range(30)]
        answer[image["id"]] = found(rows)
    return answer


@pytest.fixture(scope="module")
def coco_tiny(shared) -> dict:
    return json.loads((shared / "data/coco-tiny/annotations/instances_val2017.json").read_text())


@pytest.fixture(scope="module")
def tiny_run(coco_tiny):
    categories = [c["id"] for c in coco_tiny["categories"]][::-1]  # any order of classes
    evaluator = collect(coco_tiny, categories)
    answer = perturbed(coco_tiny, categories, 0)
    evaluator.update(list(answer), list(answer.values()))
    return evaluator, compute(evaluator), categories


def test_equals_pycocotools_on_real_ground_truth(coco_tiny, tiny_run, capsys):
    evaluator, metrics, categories = tiny_run
    stats = by_hand(coco_tiny, rows_of(evaluator))
    assert list(metrics.values.values()) == stats.tolist() == list(reference(evaluator).values())
    assert 0.1 < metrics["AP_S"] < 0.9  # a comparison of zeros would prove nothing
    assert metrics.n_labels == sum(not a["iscrowd"] for a in coco_tiny["annotations"])
    assert metrics.n_images == len(coco_tiny["images"])
    defined = [c["AP"] for c in metrics.per_class if c["AP"] >= 0]
    assert np.mean(defined) == pytest.approx(metrics["AP"])
    person = metrics.per_class[categories.index(1)]
    assert person.n_labels == sum(a["category_id"] == 1 and not a["iscrowd"] for a in coco_tiny["annotations"])
    assert capsys.readouterr().out == ""


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 4), nc=st.integers(1, 3), per_image=st.integers(0, 12),
       detections=st.sampled_from([0, 1, 20, 130]))
def test_equals_pycocotools_on_scenes_full_of_ties(seed, images, nc, per_image, detections):
    random = np.random.default_rng(seed)
    categories = random.choice(50, nc, replace=False).tolist()
    sides = np.array([4, 16, 32, 40, 96, 120])  # 32 and 96 lie on the border of two area ranges

    def boxes(n):
        return np.concatenate((random.integers(0, 4, (n, 2)) * 10, random.choice(sides, (n, 2))), 1).astype(float)

    scene = {image: [[*box, categories[random.integers(nc)]] for box in boxes(per_image).tolist()]
             for image in random.permutation(100)[:images].tolist()}
    ground = truth(scene, categories, crowd=random.integers(0, images * 12 + 1, 4).tolist())
    evaluator = collect(ground, categories)
    for image in scene:
        rows = [[*box, random.integers(1, 6) / 10, random.integers(nc)] for box in boxes(detections).tolist()]
        evaluator.update([image], [found(rows)])
    assert compute(evaluator).values == reference(evaluator)


def test_compute_twice_and_update_in_pieces_is_the_same(coco_tiny, tiny_run):
    evaluator, metrics, categories = tiny_run
    again = collect(coco_tiny, categories)
    for image, detections in reversed(perturbed(coco_tiny, categories, 0).items()):
        again.update([image], [detections])
    compute(again)
    assert compute(again).values == pytest.approx(metrics.values, abs=1e-9)


def test_rounding_changes_nothing_that_matters(coco_tiny, tiny_run):
    evaluator, metrics, categories = tiny_run
    exact = [{"image_id": image, "category_id": categories[label], "score": score,
              "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
             for image, d in perturbed(coco_tiny, categories, 0).items()
             for box, score, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)]
    assert by_hand(coco_tiny, exact) == pytest.approx(list(metrics.values.values()), abs=1e-4)


def test_curves_agree_with_a_count(coco_tiny, tiny_run):
    evaluator, metrics, categories = tiny_run
    curves = metrics.curves
    row = curves.classes.index(categories.index(1))
    at = int(np.searchsorted(CONFIDENCES, 0.5))
    people = [a for a in coco_tiny["annotations"] if a["category_id"] == 1 and not a["iscrowd"]]
    sure = [r for r in rows_of(evaluator) if r["category_id"] == 1 and r["score"] > 0.5]
    assert curves.recall[row, at] * len(people) == pytest.approx(curves.precision[row, at] * len(sure), rel=0.1)
    assert metrics.f1 == pytest.approx(curves.f1.mean(0).max())
    assert metrics.precision == pytest.approx(curves.precision[:, curves.f1.mean(0).argmax()].mean())
    assert np.allclose(curves.pr_precision.mean(), metrics["AP50"])  # AP50 is the mean of the PR curve


def test_perfect_then_shifted():
    ground = truth({-3: [[10, 10, 20, 20, 7], [50, 50, 40, 40, 9]], 10**12: [[5, 5, 200, 200, 7]]}, (7, 9))
    perfect = {-3: [[10, 10, 20, 20, 0.9, 0], [50, 50, 40, 40, 0.8, 1]], 10**12: [[5, 5, 200, 200, 0.7, 0]]}
    values = []
    for shift in (0, 3, 9):
        evaluator = collect(ground, [7, 9])
        for image, rows in perfect.items():
            evaluator.update([image], [found([[r[0] + shift, *r[1:]] for r in rows])])
        values.append(compute(evaluator))
    assert min(v for v in values[0].values.values() if v >= 0) == pytest.approx(1, abs=1e-12)
    assert (values[0].precision, values[0].recall, values[0]["AR1"]) == (1.0, 1.0, 1.0)
    assert values[0]["AP"] > values[1]["AP"] > values[2]["AP"]
    assert values[1]["AP50"] > 0.999 and values[1]["AP75"] < 0.9


def test_a_crowd_forgives_detections_inside():
    boxes = {1: [[0, 0, 10, 10, 1], [100, 100, 100, 100, 1]]}
    rows = [[0, 0, 10, 10, 0.5, 0], [110, 110, 20, 20, 0.9, 0], [150, 150, 20, 20, 0.8, 0]]
    for crowd in ((1,), ()):
        evaluator = collect(truth(boxes, crowd=crowd), [1])
        evaluator.update([1], [found(rows)])
        metrics = compute(evaluator)
        assert metrics.n_labels == 2 - len(crowd)
        assert (metrics["AP50"] > 0.999) == bool(crowd)
        assert metrics.curves.precision[0, 0] == pytest.approx(1.0 if crowd else 1 / 3)


def test_annotation_number_zero_can_be_found():
    # pycocotools takes a match with annotation id 0 for no match; `truth` numbers from 0.
    evaluator = collect(truth({1: [[0, 0, 10, 10, 1]]}), [1])
    evaluator.update([1], [found([[0, 0, 10, 10, 0.5, 0]])])
    assert compute(evaluator)["AP"] > 0.999


def test_nothing_found_and_nothing_to_find(tmp_path):
    silent = collect(truth({1: [[0, 0, 10, 10, 1]]}), [1])
    silent.update([1], [found([])])
    metrics = compute(silent)
    assert (metrics["AP"], metrics["AP50"], metrics["AR100"], metrics.recall, metrics.f1) == (0, 0, 0, 0, 0)
    assert metrics["AP_M"] == -1
    write_results_file(tmp_path / "deep" / "none.json", silent.truth, silent.found())
    assert json.loads((tmp_path / "deep" / "none.json").read_text()) == []
    nothing = collect(truth({1: []}), [1])
    nothing.update([1], [found([[0, 0, 10, 10, 0.5, 0]])])
    assert set(compute(nothing).values.values()) == {-1.0}
    assert compute(collect(truth({}), []))["AP"] == -1
    assert "-" in format_table(compute(nothing), ["thing"])


def test_results_are_coco_rows(tmp_path):
    evaluator = collect(truth({4: [], 9: []}, (18,)), [18])
    evaluator.update([9], [found([[1 / 3, 2, 10, 10, 0.123456789, 0]])])
    write_results_file(tmp_path / "r.json", evaluator.truth, evaluator.found())
    row, = json.loads((tmp_path / "r.json").read_text())
    assert row == {"image_id": 9, "category_id": 18, "bbox": [0.333, 2.0, 10.0, 10.0], "score": 0.12346}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_wrong_use_is_told():
    evaluator = collect(truth({1: []}), [1])
    with pytest.raises(ValueError, match="image id 2 is not in the ground truth"):
        evaluator.update([2], [found([])])
    with refused("not-finite", "image id 1"):
        evaluator.update([1], [found([[0, 0, float("nan"), 1, 0.5, 0]])])
    with pytest.raises(ValueError, match="labels outside the 1 classes"):
        evaluator.update([1], [found([[0, 0, 1, 1, 0.5, 3]])])
    evaluator.update([1], [found([])])
    with pytest.raises(ValueError, match="given twice"):
        evaluator.update([1], [found([])])
    with refused("unknown-id", "annotation 0", "category_id 5"):
        collect(truth({1: [[0, 0, 1, 1, 5]]}), [1])
    with pytest.raises(ValueError, match="expected different category ids"):
        collect(truth({1: []}), [1, 1])


def test_images_never_given_are_told():
    evaluator = collect(truth({1: [[0, 0, 9, 9, 1]], 2: [[0, 0, 9, 9, 1]]}), [1])
    evaluator.update([1], [found([[0, 0, 9, 9, 0.5, 0]])])
    metrics = compute(evaluator)
    assert metrics.unseen == 1
    assert "1 of 2 images were not evaluated" in format_table(metrics, ["thing"])


def test_table_is_aligned_and_complete():
    ground = truth({1: [[0, 0, 10, 10, 1], [50, 50, 9, 9, 3]], 2: [[0, 0, 40, 40, 1]]}, (1, 2, 3))
    evaluator = collect(ground, [1, 2, 3])
    evaluator.update([1, 2], [found([[0, 0, 10, 10, 0.5, 0]]), found([])])
    lines = format_table(compute(evaluator), ["a very long name of a class indeed", "absent", "b"]).splitlines()
    assert lines[0].split() == ["Class", "Images", "Labels", "P", "R", *STAT_NAMES]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[1].split()[:3] == ["all", "2", "3"]
    assert lines[2].startswith("a very long name of a c…") and lines[2].split()[-15] == "2"
    assert lines[4] == "1 of 3 classes have no object in these images"
    assert len(format_table(compute(evaluator), ["x", "y", "z"], per_class=False).splitlines()) == 2


def test_confidence_curves_equal_yolov7(golden):
    _, data = golden("ap_per_class")
    classes = np.unique(data["target_cls"])
    rows = np.array([confidence_curves(data["tp"][mask, 0], data["conf"][mask], int((data["target_cls"] == c).sum()))
                     for c in classes for mask in [data["pred_cls"] == c]])  # (K, 3, 1000)
    best = rows[:, 2].mean(0).argmax()
    for name, column in zip(("p", "r", "f1"), rows[:, :, best].T, strict=True):
        np.testing.assert_allclose(column, data[f"v7_{name}"], rtol=1e-5)
