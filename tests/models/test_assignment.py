"""Every family tells the assignment that its loss learns from."""

import pytest
import torch

from models.boxes.similarity import box_similarity
from models.detector import build_model
from models.heads.base import Head
from tests.contracts.test_models import narrow
from tests.models.loss_cases import random_targets
from tests.refusals import refused
from utils.structures import PackedTargets, Raw, Targets, pack_targets

CLASSES, SIDE = 3, 320
FAMILIES = ["yolov8n", "yolov8n-assn", "yolov5n", "yolov3-tiny", "yolov7-tiny", "yolov7-w6", "ssd300-r18",
            "retinanet-r18", "salience-detr-tiny"]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request) -> tuple[torch.nn.Module, Raw, PackedTargets]:
    torch.manual_seed(0)
    name, _, neck = request.param.partition("-assn")
    model = build_model(narrow(name, "assn" if neck or request.param.endswith("assn") else None)).train()
    height, width = model.frame.size or (SIDE, SIDE)
    targets = random_targets(3, 12, min(height, width), CLASSES, seed=1)
    crowd = Targets(torch.tensor([[0.0, 0, 90, 90], [100, 100, 140, 150]]), torch.zeros(2, dtype=torch.int64),
                    torch.tensor([True, False]))
    targets = pack_targets([*targets.unpack(), crowd])
    images = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        return model, model(images, targets=targets), targets


def test_positives_are_those_that_the_loss_counts(case):
    model, raw, targets = case
    amounts = []
    with torch.no_grad():
        model.loss(raw, targets, all_reduce=lambda vector: amounts.append(vector) or vector)
    found, counted = model.assignment(raw, targets), amounts[0][:-1]  # the images come last
    if model.head.assigner in ("anchor", "ota"):  # per level, the lead's first
        levels = torch.bincount(found.level, minlength=len(model.strides))
        assert levels.tolist() == counted[:len(model.strides)].tolist()
    else:
        assert found.weight.sum().item() == pytest.approx(counted[0].item(), rel=1e-4)
    assert len(found.box) > 0 and model.head.assigner


def test_positives_are_of_objects_and_their_boxes_in_the_frame(case):
    model, raw, targets = case
    found = model.assignment(raw, targets)
    assert targets.valid[found.image, found.box].all()
    levels = {-1} if found.cost is not None else set(range(len(model.strides)))
    assert set(found.level.tolist()) <= levels
    assert found.guess.shape == (len(found.box), 4) and found.guess.isfinite().all()
    if found.prior is not None:
        iou = box_similarity(found.prior, targets.boxes[found.image, found.box], "iou")
        assert iou.max() > 0.2 and (iou >= 0).all()
    if found.cost is not None:
        pairs = torch.stack((found.image, found.box))
        assert pairs.unique(dim=1).shape == pairs.shape and len(found.box) == int(targets.valid.sum())


def test_guesses_are_what_decoding_gives(case):
    model, raw, targets = case
    boxes, _ = model.decode(raw)
    found = model.assignment(raw, targets)
    height, width = raw.image_size
    limit = torch.tensor([width, height, width, height])
    inside = found.guess.maximum(torch.zeros(4)).minimum(limit)
    for image, guess, cut in list(zip(found.image, found.guess, inside, strict=True))[::7]:
        gap = torch.minimum((boxes[image] - guess).abs().amax(-1), (boxes[image] - cut).abs().amax(-1))
        assert gap.min() < 1e-2


def test_images_without_objects_have_no_positives(case):
    model, raw, _ = case
    none = pack_targets([Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))] * 4)
    assert len(model.assignment(raw, none).box) == 0


def test_a_head_that_tells_nothing_is_refused():
    with refused("not-supported", "Head", "assignment"):
        Head().assignment(None, None)
