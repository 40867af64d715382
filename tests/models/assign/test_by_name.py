"""Every assigner that a head can take teaches it, as its table says."""

import pytest
import torch

from models.assign.anchor_match import closest_anchors
from models.assign.by_name import ANCHOR_ASSIGNERS, POINT_ASSIGNERS, PointHead
from models.assign.task_aligned import TalOptions
from models.boxes.decoding import anchor_points
from models.detector import build_model
from tests.contracts.test_models import narrow
from tests.models.loss_cases import STRIDES, V7_ANCHORS, pad_as_on_cuda, random_targets
from utils.structures import Targets, pack_targets

SIDE = 160
CASES = [(model, name) for model in ("yolov3-tiny", "yolov5n", "yolov7-tiny", "yolov7-w6") for name in ANCHOR_ASSIGNERS]
CASES += [("yolov8n", name) for name in POINT_ASSIGNERS]


def made(model: str, assign: str):
    """A narrow model, its raw maps and targets, the first of them a crowd region."""
    torch.manual_seed(0)
    side = 256 if model == "yolov7-w6" else SIDE
    model = build_model(narrow(model), assign=assign).train()
    targets = random_targets(2, 9, side, 3, seed=1).unpack()
    targets[0].ignore[0] = True
    raw = model(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8))
    return model, raw, pack_targets(targets)


@pytest.mark.parametrize("model, assign", CASES)
def test_a_step_of_each_head_with_each_assigner(model, assign, monkeypatch):
    model, raw, targets = made(model, assign)
    losses = model.loss(raw, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() and value > 0 for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    found = model.assignment(raw, targets)
    assert len(found.box) and targets.valid[found.image, found.box].all()
    pad_as_on_cuda(monkeypatch)
    for name, value in model.loss(raw, targets).items():
        torch.testing.assert_close(value, losses[name])


@pytest.mark.parametrize("model", ["yolov3-tiny", "yolov5n", "yolov7-tiny", "yolov8n"])
def test_rfla_gives_every_object_a_positive_whatever_is_predicted(model):
    model, raw, _ = made(model, "rfla")
    corners = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) * 48 + 13
    boxes = torch.cat((corners, corners + torch.linspace(1, 40, 9)[:, None]), 1)
    targets = pack_targets([Targets(boxes, torch.zeros(9, dtype=torch.int64)), Targets.empty()])
    found = model.assignment(raw, targets)
    assert found.box.unique().tolist() == list(range(9)) and torch.bincount(found.box).max() <= 4
    assert (found.weight == 1).all()


def test_stal_asks_in_boxes_enlarged_to_the_second_stride():
    """A 3 px box that no point lies in holds four points of stride 8 once its sides are 16 px."""
    targets = pack_targets([Targets(torch.tensor([[62.5, 62.5, 65.5, 65.5]]), torch.zeros(1, dtype=torch.int64))])
    shapes = [(SIDE // s, SIDE // s) for s in STRIDES]
    points, steps = anchor_points(shapes, STRIDES, torch.device("cpu"))
    logits = [torch.zeros(1, 3, height * width) for height, width in shapes]
    head = PointHead(targets.boxes.expand(1, len(points), 4), logits, points, steps, STRIDES)  # all predict the box
    plain, enlarged = (POINT_ASSIGNERS[name](head, targets, TalOptions()).box[0] for name in ("tal", "stal"))
    assert (plain == -1).all()
    assert points[enlarged == 0].tolist() == [[60.0, 60], [68, 60], [60, 68], [68, 68]]


def test_a_cell_learns_with_the_anchor_of_its_boxs_shape():
    """20 x 44 px: of 12 x 16, 19 x 36 and 40 x 28 the second; 30 x 24: the third, by ratios 1.5 and 2.5 of the first,
    1.58 and 1.5 of the second, 1.33 and 1.17."""
    shapes = [(SIDE // s, SIDE // s) for s in STRIDES]
    points, _ = anchor_points(shapes, STRIDES, torch.device("cpu"))
    boxes = torch.tensor([[0.0, 0, 20, 44], [60, 60, 90, 84]])
    targets = pack_targets([Targets(boxes, torch.zeros(2, dtype=torch.int64))])
    owner = torch.full((1, len(points)), -1)
    owner[0, 3], owner[0, 25] = 0, 1
    first, *rest = closest_anchors(owner, targets, V7_ANCHORS, shapes, 4)
    cells = shapes[0][0] * shapes[0][1]
    assert first.place.tolist() == [cells + 3, 2 * cells + 25] and first.box.tolist() == [0, 1]
    assert not any(len(level.box) for level in rest)
