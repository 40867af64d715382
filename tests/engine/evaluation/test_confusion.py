"""The confusion matrix counts every object and every sure detection once."""

import torch

from engine.evaluation.confusion import ConfusionMatrix
from utils.structures import Detections

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0], [100.0, 100.0, 200.0, 200.0]])


def found(boxes: torch.Tensor, scores: list[float], labels: list[int]) -> Detections:
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def test_hits_confusions_misses_and_false_ones():
    matrix = ConfusionMatrix(3)
    far = torch.tensor([[300.0, 300.0, 310.0, 310.0]])
    matrix.update(found(torch.cat((BOXES[:2], far)), [0.9, 0.8, 0.7], [0, 2, 1]), BOXES, torch.tensor([0, 1, 1]))
    want = torch.zeros(4, 4, dtype=torch.int64)
    want[0, 0] = 1  # right
    want[2, 1] = 1  # object of class 1 taken for class 2
    want[3, 1] = 1  # missed
    want[1, 3] = 1  # background taken for class 1
    assert matrix.matrix.tolist() == want.tolist()


def test_an_object_has_one_detection_the_best():
    matrix = ConfusionMatrix(2)
    near = BOXES[:1] + torch.tensor([0.0, 0.0, 2.0, 0.0])
    matrix.update(found(torch.cat((near, BOXES[:1])), [0.9, 0.8], [1, 0]), BOXES[:1], torch.tensor([0]))
    assert matrix.matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_thresholds_and_empty_sides():
    matrix = ConfusionMatrix(1, conf=0.25, iou=0.45)
    none = torch.zeros(0, 4)
    no_labels = torch.zeros(0, dtype=torch.int64)
    matrix.update(found(none, [], []), none, no_labels)
    assert matrix.matrix.sum() == 0
    matrix.update(found(BOXES[:1], [0.2], [0]), BOXES[:1], torch.tensor([0]))  # not sure: a miss
    matrix.update(found(BOXES[:1], [0.9], [0]), none, no_labels)  # false
    matrix.update(found(BOXES[:1] + 4, [0.9], [0]), BOXES[:1], torch.tensor([0]))  # too far: false and a miss
    assert matrix.matrix.tolist() == [[0, 2], [2, 0]]


def test_crowds_are_neither_missed_nor_false():
    matrix = ConfusionMatrix(1)
    inside = torch.tensor([[110.0, 110.0, 120.0, 120.0]])
    ignore = torch.tensor([False, True, True])
    detections = found(torch.cat((BOXES[:1], inside)), [0.9, 0.9], [0, 0])
    matrix.update(detections, BOXES, torch.zeros(3, dtype=torch.int64), ignore)
    assert matrix.matrix.tolist() == [[1, 0], [0, 0]]
