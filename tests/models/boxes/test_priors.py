"""Prior boxes: shapes and places by hand, the counts of the published models, clipping."""

from math import ceil

import pytest
import torch

from models import build_model
from models.boxes.priors import PriorSpec, prior_boxes
from utils.boxes import xyxy_to_cxcywh

SPEC = PriorSpec((10, 40, 90), ((2,), (4, 9)), (8, 16))
CPU = torch.device("cpu")


def test_shapes_of_a_cell():
    """Least square, larger square, then of each ratio the wide prior before the tall one (assd_ssd.md, section 4)."""
    assert SPEC.shapes(1) == [(40, 40), (60, 60), (80, 20), (20, 80), pytest.approx((120, 40 / 3)),
                              pytest.approx((40 / 3, 120))]
    assert SPEC.shapes(0)[1] == (20, 20)
    assert SPEC.per_cell == [4, 6]


def test_places_run_level_row_column_prior():
    priors = xyxy_to_cxcywh(prior_boxes(SPEC, ((1, 3), (1, 2)), (8, 24), CPU))
    assert priors.shape == (3 * 4 + 2 * 6, 4)
    assert priors[:12:4].tolist() == [[4, 4, 10, 10], [12, 4, 10, 10], [20, 4, 10, 10]]
    assert priors[12::6].tolist() == [[8, 8, 40, 40], [24, 8, 40, 40]]


def test_clipping():
    shapes, size = ((1, 3), (1, 2)), (16, 24)
    free, sides, every = (prior_boxes(PriorSpec(SPEC.sizes, SPEC.ratios, SPEC.steps, clip), shapes, size, CPU)
                          for clip in ("none", "sides", "all"))
    limit = torch.tensor([24.0, 16.0])
    wanted = xyxy_to_cxcywh(free)
    torch.testing.assert_close(xyxy_to_cxcywh(sides)[:, :2], wanted[:, :2])
    torch.testing.assert_close(xyxy_to_cxcywh(sides)[:, 2:], wanted[:, 2:].minimum(limit))
    outside = PriorSpec(SPEC.sizes, SPEC.ratios, (8, 60), "all")
    centre = xyxy_to_cxcywh(prior_boxes(outside, shapes, size, CPU))[-1, :2]
    assert centre.tolist() == [24, 16]  # of (90, 30)
    torch.testing.assert_close(every, sides)  # no centre lies outside


@pytest.mark.parametrize("name, count", [("ssd300", 8732), ("ssd512", 24564), ("assd513", 25844), ("assd321", 10352)])
def test_counts_of_the_published_models(name, count):
    with torch.device("meta"):
        model = build_model(name, 20)
    maps = tuple((ceil(model.frame.size[0] / step),) * 2 for step in model.strides)
    assert sum(h * w * n for (h, w), n in zip(maps, model.head.per_cell, strict=True)) == count
    assert len(prior_boxes(model.head.priors, maps, model.frame.size, CPU)) == count


def test_the_same_priors_are_made_once_and_may_be_trained_with():
    with torch.inference_mode():
        first = prior_boxes(SPEC, ((2, 3), (1, 2)), (16, 24), CPU)
    assert prior_boxes(SPEC, ((2, 3), (1, 2)), (16, 24), CPU) is first
    offsets = torch.zeros(len(first), 4, requires_grad=True)
    (offsets * first).sum().backward()  # an inference tensor could not be kept for the backward


@pytest.mark.parametrize("arguments, told", [
    (((10, 40), ((2,), (2,)), (8, 16)), "2 steps need 2 lists of ratios and 3 sizes, not 2 and 2"),
    (((10, 40, -1), ((2,), (2,)), (8, 16)), "above 0")])
def test_what_makes_no_priors_is_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        PriorSpec(*arguments)
