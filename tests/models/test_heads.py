"""What heads say: decoding by hand, first biases, one class, anchors as files write them."""

from math import log

import pytest
import torch

from models import build_model
from models.boxes.decoding import anchor_points, dfl_expectation
from models.heads.anchor import AnchorDetect, ImplicitDetect, anchor_pairs
from models.heads.dfl import DFLDetect
from utils.structures import Raw

ANCHORS = [[10, 20, 30, 40], [50, 60, 70, 80]]


def test_anchor_points_run_level_row_column_in_pixels():
    points, steps = anchor_points([(2, 3), (1, 1)], [8, 16], torch.device("cpu"))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert steps.flatten().tolist() == [8] * 6 + [16]


def test_dfl_expectation_of_one_certain_bin():
    logits = torch.full((1, 64), -50.0)
    for side, bin_ in enumerate((0, 3, 15, 7)):
        logits[0, side * 16 + bin_] = 50.0
    torch.testing.assert_close(dfl_expectation(logits), torch.tensor([[0.0, 3, 15, 7]]))


def test_dfl_box_by_hand():
    head = DFLDetect([16], nc=2, strides=[8])
    box, cls = torch.full((1, 64, 2, 2), -50.0), torch.zeros(1, 2, 2, 2)
    for side, bin_ in enumerate((1, 0, 2, 1)):
        box[:, side * 16 + bin_] = 50.0
    boxes, scores = head.decode(Raw({"box": (box,), "cls": (cls,)}, (16, 16)))
    assert boxes[0, 1].tolist() == [12 - 8, 4 - 0, 12 + 16, 4 + 8]  # centre (12, 4): first row, second column
    assert scores.tolist() == [[[0.5, 0.5]] * 4]


def test_anchor_box_by_hand():
    head = AnchorDetect([16, 16], 2, ANCHORS, strides=[8, 16])
    level = torch.zeros(1, 2, 1, 2, 7)
    boxes, scores = head.decode(Raw({"lead": (level, torch.zeros(1, 2, 1, 1, 7))}, (8, 16)))
    # sigmoid 1/2 everywhere: centre in the middle of the cell, exactly the anchor's size, score 1/2 * 1/2
    assert boxes[0, 1].tolist() == [12 - 5, 4 - 10, 12 + 5, 4 + 10]
    assert boxes[0, 2].tolist() == [4 - 15, 4 - 20, 4 + 15, 4 + 20]
    assert scores.unique().tolist() == [0.25]


def test_one_class_is_scored_by_objectness_alone():
    head = AnchorDetect([16, 16], 1, ANCHORS, strides=[8, 16])
    level = torch.zeros(1, 2, 1, 1, 6)
    level[..., 5] = -20.0  # whatever the untrained class says
    _, scores = head.decode(Raw({"lead": (level, level)}, (8, 8)))
    assert scores.shape == (1, 4, 1)
    assert scores.unique().tolist() == [0.5]


@pytest.mark.parametrize("kind, slack", [(AnchorDetect, 0.99999), (ImplicitDetect, 0.99)])
def test_first_biases_of_anchor_heads(kind, slack):
    torch.manual_seed(0)
    bias = kind([16, 16], 80, ANCHORS, strides=[8, 16]).m[0].bias.view(2, 85)
    assert (bias[:, 4] - log(8 / 80**2)).abs().max() <= 0.25  # on torch's own uniform(-1/4, 1/4)
    assert (bias[:, 5:] - log(0.6 / (80 - slack))).abs().max() <= 0.25


def test_first_biases_of_the_dfl_head():
    head = DFLDetect([16, 16], nc=80, strides=[8, 16])
    assert head.cv2[1][2].bias.unique().tolist() == [1.0]
    assert head.cv3[1][2].bias.detach().unique().tolist() == pytest.approx([log(5 / 80 / 40**2)])


def test_anchors_flat_or_in_pairs_and_turned_round_where_written_coarse_first():
    flat, pairs = [[1, 2, 3, 4], [5, 6, 7, 8]], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert anchor_pairs(flat, [8, 16]) == anchor_pairs(pairs, [8, 16]) == pairs
    assert anchor_pairs(flat[::-1], [8, 16]) == pairs
    assert anchor_pairs(flat, [16, 8]) == pairs[::-1]


def test_implicit_head_is_the_sum_and_product_it_stands_for():
    torch.manual_seed(0)
    head, x = ImplicitDetect([16], 2, ANCHORS[:1], strides=[8]), torch.randn(2, 16, 4, 4)
    torch.nn.init.normal_(head.ia[0].implicit)
    expected = head.im[0].implicit * head.m[0](head.ia[0].implicit + x)
    torch.testing.assert_close(head.level(0, x), expected, rtol=1e-5, atol=1e-5)


def test_gains_merge_over_the_published_ones():
    assert build_model("yolov7-tiny", 2, gains={"box": 0.1}).head.gains == {"box": 0.1, "obj": 0.7, "cls": 0.3}
    assert build_model("yolov8n", 2).head.gains == {"box": 7.5, "cls": 0.5, "dfl": 1.5}
