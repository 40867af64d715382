"""The greatest overlaps of priors with objects, against the full matrix of each image."""

import pytest
import torch
from torchvision.ops import box_iou

from models.assign import padded_indices
from models.assign.prior_overlap import overlaps
from utils.structures import Targets, pack_targets


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """On whole pixels of a small frame, so that equal overlaps are frequent."""
    corner = torch.randint(0, 24, (count, 2), generator=generator).float()
    return torch.cat((corner, corner + torch.randint(1, 12, (count, 2), generator=generator)), 1)


def share(prior: torch.Tensor, region: torch.Tensor) -> float:
    """Of the area of a prior, what lies in a region."""
    sides = torch.minimum(prior[2:], region[2:]) - torch.maximum(prior[:2], region[:2])
    return float(sides.clamp(min=0).prod() / (prior[2:] - prior[:2]).prod())


@pytest.mark.parametrize("budget", [1, 300, 1 << 20])
def test_equals_the_full_matrix(budget, monkeypatch):
    """Whatever the number of boxes of a chunk; an image without objects and one with crowds alone are among them."""
    monkeypatch.setattr(padded_indices, "PAIRS_CPU", budget)
    generator = torch.Generator().manual_seed(0)
    priors = random_boxes(70, generator)
    counts = ((9, 0.3), (0, 0.0), (5, 1.0), (3, 0.0))  # boxes, fraction of crowds among them
    images = [Targets(random_boxes(n, generator), torch.zeros(n, dtype=torch.int64),
                      torch.rand(n, generator=generator) < crowds) for n, crowds in counts]
    found = overlaps(priors, pack_targets(images))
    for b, image in enumerate(images):
        objects = ~image.ignore
        matrix = box_iou(image.boxes, priors).where(objects[:, None], -1)  # (n, N)
        wanted, index = torch.cat((torch.zeros(1, len(priors)), matrix)).max(0)
        torch.testing.assert_close(found.iou[b], wanted)
        assert torch.equal(found.box[b], (index - 1).clamp(min=0))
        best = matrix.amax(1)
        torch.testing.assert_close(found.prior_iou[b, :len(image)], best)
        assert all(found.prior_iou[b, len(image):] == -1)
        rows = torch.arange(len(image))[objects]
        torch.testing.assert_close(matrix[rows, found.prior[b, rows]], best[objects])
        ties = (matrix >= best[:, None] - 1e-6) & (matrix > 0)
        assert torch.equal(found.is_best[b], ties.any(0))
        assert found.crowded[b].tolist() == [any(share(prior, c) > 0.5 for c in image.boxes[image.ignore])
                                             for prior in priors]


def test_no_box_at_all():
    found = overlaps(torch.tensor([[0.0, 0, 4, 4]]), pack_targets([Targets.empty(), Targets.empty()]))
    assert found.iou.tolist() == [[0], [0]]
    assert found.prior.shape == (2, 0)
    assert not found.is_best.any()


def test_a_box_of_nan_is_seen():
    targets = pack_targets([Targets(torch.tensor([[0.0, 0, 4, 4], [float("nan")] * 4]), torch.tensor([0, 0]))])
    found = overlaps(torch.tensor([[0.0, 0, 4, 4], [50, 50, 60, 60]]), targets)
    assert found.is_best.all()
    assert found.box.tolist() == [[1, 1]]
