"""SSD300 against torchvision's ssd300_vgg16, with its weights: forward, priors and loss. Detections differ by design:
torchvision cuts boxes at the frame before NMS, SSD does behind it."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from models import build_model
from models.detector import Detector
from utils.structures import Targets

CLASSES, SIDE = 4, 300


def in_our_order(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """VGG, the scale of the first map, extra convolutions, offsets, classes: torchvision lists the scale first and the
    classes before the offsets."""
    def part(prefix: str) -> list[torch.Tensor]:
        return [v for k, v in state.items() if k.startswith(prefix)]

    return [*part("backbone.features."), *part("backbone.extra."), *part("backbone.scale_weight"),
            *part("head.regression_head."), *part("head.classification_head.")]


@pytest.fixture(scope="module")
def pair() -> tuple[Detector, SSD]:
    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    for conv in theirs.head.modules():
        if isinstance(conv, nn.Conv2d):  # offsets and scores far from their start
            nn.init.normal_(conv.bias, std=0.5)
    ours = build_model("ssd300", CLASSES, priors="coco", clip="sides").eval()
    values = in_our_order(theirs.state_dict())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    return ours, theirs


@pytest.mark.slow
@torch.no_grad()
def test_forward_and_loss_are_those_of_torchvision(pair):
    ours, theirs = pair
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    batch, _ = theirs.transform(list(images))
    features = list(theirs.backbone(batch.tensors).values())
    wanted = theirs.head(features)
    raw = ours(images)
    offsets, logits, priors = ours.head.flat(raw)
    torch.testing.assert_close(offsets, wanted["bbox_regression"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, wanted["cls_logits"], rtol=1e-3, atol=1e-3)
    anchors = theirs.anchor_generator(batch, features)
    torch.testing.assert_close(priors, anchors[0], rtol=0, atol=1e-3)

    truth = [torch.tensor([[20.0, 30, 120, 200], [150, 100, 190, 130]]), torch.tensor([[5.0, 5, 290, 260]])]
    labels = [torch.tensor([0, 3]), torch.tensor([2])]
    found = ours.loss(raw, [Targets(b, n) for b, n in zip(truth, labels, strict=True)])
    matched = [theirs.proposal_matcher(box_iou(b, a)) for b, a in zip(truth, anchors, strict=True)]
    boxes = [{"boxes": b, "labels": n + 1} for b, n in zip(truth, labels, strict=True)]
    expected = theirs.compute_loss(boxes, wanted, anchors, matched)
    torch.testing.assert_close(found["loc"] / 2, expected["bbox_regression"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["conf"] / 2, expected["classification"], rtol=1e-3, atol=1e-4)
