"""Assignment by bands of IoU against torchvision's matcher, image by image."""

import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from models.assign.iou_bands import assign_by_iou
from models.boxes.pyramid_anchors import PyramidAnchors
from utils.structures import Targets, pack_targets


def anchors() -> torch.Tensor:
    spec = PyramidAnchors((8, 16, 32))
    return spec.boxes(spec.sizes(), [(8, 12), (4, 6), (2, 3)], (64, 96))


def boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 40.0])
    return torch.cat((corner, corner + 3 + torch.rand(count, 2, generator=generator) * 50), 1)


def test_bands_are_those_of_torchvision():
    generator, places = torch.Generator().manual_seed(0), anchors()
    images = [Targets(boxes(n, generator), torch.zeros(n, dtype=torch.int64)) for n in (7, 1, 12)]
    found = assign_by_iou(places, pack_targets(images))
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for b, image in enumerate(images):
        wanted = matcher(box_iou(image.boxes, places))
        assert torch.equal(found.positive[b], wanted >= 0)
        assert torch.equal(found.box[b][wanted >= 0], wanted[wanted >= 0])
        assert torch.equal(found.learned[b], wanted != Matcher.BETWEEN_THRESHOLDS)
        assert (wanted == Matcher.BETWEEN_THRESHOLDS).any()


def test_objects_far_from_all_anchors_take_none():
    """torchvision's rule of the best anchor would make all of them positive, at an IoU of 0."""
    found = assign_by_iou(anchors(), pack_targets([Targets(torch.tensor([[500.0, 500, 510, 510]]), torch.tensor([0]))]))
    assert not found.positive.any()
    assert found.learned.all()


def test_anchors_in_crowd_regions_learn_no_background():
    object_, region = [2.0, 2, 30, 30], [0.0, 0, 64, 64]
    plain = assign_by_iou(anchors(), pack_targets([Targets(torch.tensor([object_]), torch.tensor([0]))]))
    crowd = Targets(torch.tensor([region, object_]), torch.tensor([0, 0]), torch.tensor([True, False]))
    found = assign_by_iou(anchors(), pack_targets([crowd]))
    assert torch.equal(found.positive, plain.positive)
    assert found.box[found.positive].unique().tolist() == [1]
    away = anchors()[:, 0] >= 64
    assert found.learned[0, away].all()
    inside = (anchors()[:, :2] >= 0).all(1) & (anchors()[:, 2:] <= 64).all(1)
    assert torch.equal(found.learned[0, inside], found.positive[0, inside])
