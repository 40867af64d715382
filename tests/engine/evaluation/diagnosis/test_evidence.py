"""What candidates say of objects equals what plain loops say, and does not depend on how images are batched."""

import numpy as np
import pytest
import torch

from engine.evaluation.diagnosis import evidence as module
from engine.evaluation.diagnosis.causes import FLOOR, IOU, NEAR
from engine.evaluation.diagnosis.evidence import Candidates, Evidence, Watch, observe, owners
from tests.engine.evaluation.diagnosis.cases import CONFIG, SIZE, batch_of, diagnosed, truth_of
from utils.distributed.group import Group
from utils.select import SelectConfig, non_max_suppression
from utils.structures import Detections, Letterbox


def overlap(a, b) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(tall, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def by_loops(boxes, scores, found: Detections, objects, labels, config: SelectConfig) -> Evidence:
    """The same, box by box."""
    said = Evidence.empty(len(objects))
    kept = [(b, s, k) for b, s, k in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(),
                                         strict=True)]
    best_kept = [0.0] * len(objects)
    for box, score, label in kept:
        reach = [overlap(box, o) for o in objects]
        own = reach.index(max(reach))
        if reach[own] >= IOU and labels[own] == label:
            best_kept[own] = max(best_kept[own], score)
    for box, row in zip(boxes, scores, strict=True):
        reach = [overlap(box, o) for o in objects]
        own = reach.index(max(reach))
        if reach[own] < NEAR:
            continue
        right = row[labels[own]]
        others = {k: s for k, s in enumerate(row) if k != labels[own]}
        other = max(others, key=others.get)
        if right > FLOOR:
            said.best_iou[own] = max(said.best_iou[own], reach[own])
            target = said.right if reach[own] >= IOU else said.near
            target[own] = max(target[own], right)
        if others[other] > FLOOR and reach[own] >= IOU and others[other] >= said.other[own]:
            said.other[own], said.other_label[own] = others[other], other
        if max(row) > FLOOR:
            said.anything[own] = max(said.anything[own], *row)
        if reach[own] >= IOU and right > config.conf and right > best_kept[own]:
            gone = any(k == labels[own] and s >= right and overlap(b, box) > config.iou for b, s, k in kept)
            target = said.suppressed if gone or len(kept) < config.max_det else said.cut
            target[own] = max(target[own], right)
    said.scale[:] = 1
    return said


@pytest.mark.parametrize("seed", range(30))
def test_as_box_by_box(seed, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 50)  # in several pieces
    random = np.random.default_rng(seed)
    g, n, classes = int(random.integers(1, 12)), 120, 3
    low = random.integers(0, 60, (g, 2))
    objects = np.concatenate((low, low + random.choice([6, 11, 30], (g, 2))), 1).astype(float)
    labels = random.integers(0, classes, g)
    boxes = objects[random.integers(0, g, n)] + random.normal(0, 1.5, (n, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    boxes = np.clip(boxes, 0, SIZE).astype(np.float32)
    scores = (random.random((n, classes)) ** 8).astype(np.float32)
    config = SelectConfig(0.01, 0.5, [300, 8][seed % 2], multi_label=True)
    raw = Candidates(torch.tensor(boxes), torch.tensor(scores), Letterbox((SIZE,) * 2, (SIZE,) * 2, (1, 1), (0, 0)))
    found = non_max_suppression(raw.boxes[None], raw.scores[None], config)[0]
    said = observe(raw, found, torch.tensor(objects), torch.tensor(labels), config)
    expected = by_loops(boxes.tolist(), scores.tolist(), found, objects.tolist(), labels.tolist(), config)
    for name, values in vars(expected).items():
        np.testing.assert_allclose(getattr(said, name), values, rtol=1e-5, err_msg=name)
    assert seed % 2 == 0 or g < 4 or said.cut.any() or said.suppressed.any()


def test_boxes_without_area_belong_to_nobody():
    values, _ = owners(torch.tensor([[5.0, 5, 5, 5], [0, 0, 4, 4]]), torch.tensor([[5.0, 5, 5, 5]]).double())
    assert values.tolist() == [0, 0]


def test_no_candidates():
    raw = Candidates(torch.zeros(0, 4), torch.zeros(0, 2), Letterbox((9, 9), (9, 9), (1, 1), (0, 0)))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    said = observe(raw, nothing, torch.tensor([[0.0, 0, 4, 4]]).double(), torch.tensor([1]), CONFIG)
    assert said.right.tolist() == said.anything.tolist() == [0] and said.other_label.tolist() == [-1]


def test_sides_as_the_model_sees_them():
    told = diagnosed(truth_of([(0, 0, 20, 20)], [0]), [[]], [[]], scale=0.5)
    assert told.evidence.scale.tolist() == [0.5] and told.sides.tolist() == [20]


def test_watch_passes_everything_through():
    truth = truth_of([(0, 0, 20, 20), (5, 5, 30, 30)], [0, 1], [0, 1], n=2)
    batches = [batch_of([1, 2])]
    watch = Watch(truth, batches, non_max_suppression, lambda scores: scores)
    assert len(watch) == 1
    boxes = torch.tensor([[[0.0, 0, 20, 20]], [[5, 5, 30, 30]]])
    scores = torch.tensor([[[0.5, 0.1]], [[0.2, 0.7]]])
    for batch in watch:
        assert batch is batches[0]
        found = watch.select(boxes, scores, CONFIG)
        assert [len(d) for d in found] == [2, 2]
    said = watch.gather(Group())
    np.testing.assert_allclose(said.right, [0.5, 0.7], rtol=1e-6)
    assert watch.seconds > 0 == watch.in_load  # the only batch is observed after the evaluation's last lap


def test_watch_says_that_it_was_not_asked():
    truth = truth_of([(0, 0, 20, 20)], [0])
    with pytest.raises(ValueError, match="selected nothing"):
        list(Watch(truth, [batch_of([1])], non_max_suppression, lambda scores: scores))
