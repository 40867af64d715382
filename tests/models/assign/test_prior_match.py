"""SSD's matching against its definition, box by box."""

import pytest
import torch
from torchvision.ops import box_iou

from models.assign.prior_match import match_priors
from utils.structures import Targets, pack_targets

PRIORS = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10], [40, 40, 80, 80]])


def match(*images: Targets, iou: float = 0.5):
    found = match_priors(PRIORS, pack_targets(list(images)), iou)
    return found.box.tolist(), found.excluded.tolist()


def boxes(*rows: list[float], ignore: list[bool] | None = None) -> Targets:
    flags = None if ignore is None else torch.tensor(ignore)
    return Targets(torch.tensor(rows, dtype=torch.float32), torch.zeros(len(rows), dtype=torch.int64), flags)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_definition(seed):
    """For each prior its best box from the threshold on; then box after box takes its best prior."""
    generator = torch.Generator().manual_seed(seed)

    def random(count: int) -> torch.Tensor:
        low = torch.rand(count, 2, generator=generator) * 80
        return torch.cat((low, low + 4 + torch.rand(count, 2, generator=generator) * 40), 1)

    priors, images = random(300), [Targets(random(n), torch.zeros(n, dtype=torch.int64)) for n in (9, 0, 1, 30)]
    found = match_priors(priors, pack_targets(images), 0.4)
    for i, image in enumerate(images):
        wanted = [-1] * len(priors)
        if len(image):
            overlap = box_iou(image.boxes, priors)
            best = overlap.max(0)
            wanted = [int(b) if v >= 0.4 else -1 for v, b in zip(best.values, best.indices, strict=True)]
            for number, row in enumerate(overlap):
                wanted[int(row.argmax())] = number
        assert found.box[i].tolist() == wanted
    assert not found.excluded.any()


def test_a_box_takes_its_best_prior_whatever_the_overlap_and_a_later_one_wins():
    small, smaller = [41.0, 41, 45, 45], [42.0, 42, 45, 45]
    assert match(boxes(small))[0] == [[-1, -1, -1, 0]]
    assert match(boxes(small, smaller))[0] == [[-1, -1, -1, 1]]
    assert match(boxes(smaller, small))[0] == [[-1, -1, -1, 1]]


def test_a_taken_prior_is_lost_to_the_box_that_overlaps_it_more():
    exact, beside = [0.0, 0, 10, 10], [0.0, 0, 9, 10]  # both have the first prior as their best
    assert match(boxes(exact, beside))[0] == [[1, -1, 0, -1]]  # the third prior overlaps the first box by a half


def test_crowds_are_neither_object_nor_background():
    crowd = [0.0, 0, 14, 10]  # holds the first prior, less than a half of the second, 70 percent of the third
    found = match(boxes(crowd, [41.0, 41, 80, 80], ignore=[True, False]), boxes(crowd, ignore=[True]), Targets.empty())
    assert found[0] == [[-1, -1, -1, 1], [-1] * 4, [-1] * 4]
    assert found[1] == [[True, False, True, False], [True, False, True, False], [False] * 4]


def test_an_object_in_a_crowd_is_learned():
    found = match(boxes([0.0, 0, 20, 10], [1.0, 0, 10, 10], ignore=[True, False]))
    assert found == ([[1, -1, -1, -1]], [[False, True, True, False]])


def test_boxes_without_area_take_no_prior():
    assert match(boxes([5.0, 5, 5, 5]))[0] == [[-1] * 4]
    assert match(boxes([100.0, 100, 110, 110]))[0] == [[-1] * 4]  # nor do those that no prior touches


def test_a_box_that_is_no_number_is_seen():
    """It is matched, so that the loss is no number either, which training reports with its image."""
    assert 0 in match(boxes([float("nan")] * 4))[0][0]
