"""Assignment by similarity distance against loops, and what must hold for any boxes."""

from dataclasses import replace
from math import exp, hypot, inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.assign import padded_indices
from models.assign.similarity_distance import (
    SimdOptions,
    assign_similarity_distance,
    mean_ratios,
    similarity_distance,
)
from models.boxes.decoding import anchor_points
from tests.models.loss_cases import STRIDES, random_targets
from utils.structures import Targets, pack_targets

SIDE = 96
POINTS, STEPS = anchor_points([(SIDE // s, SIDE // s) for s in STRIDES], STRIDES, torch.device("cpu"), torch.float64)
PRIORS = torch.cat((POINTS - STEPS * torch.tensor([1.0, 1.5]), POINTS + STEPS * torch.tensor([1.0, 1.5])), 1)


def targets_of(*boxes: list[float]):
    return pack_targets([Targets(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64))])


def by_hand(prior: list[float], box: list[float]) -> tuple[list[float], list[float]]:
    """Of an x and a y axis: how far centres are apart, and how much sides differ, over the sum of the sides."""
    apart, differ = [], []
    for p1, p2, b1, b2 in ((prior[i], prior[i + 2], box[i], box[i + 2]) for i in range(2)):
        apart.append(abs(p1 + p2 - b1 - b2) / 2 / (p2 - p1 + b2 - b1))
        differ.append(abs((p2 - p1) - (b2 - b1)) / (p2 - p1 + b2 - b1))
    return apart, differ


def by_loops(images: list[list[list[float]]], reach: float) -> list[list[int]]:
    """One image, box and prior at a time."""
    pairs = [by_hand(prior, box)[0] for boxes in images for box in boxes for prior in PRIORS.tolist()]
    m, n = (sum(pair[axis] for pair in pairs) / len(pairs) for axis in range(2)) if pairs else (0, 0)
    owners, options = [], SimdOptions()
    for boxes in images:
        best: dict[int, tuple[float, int]] = {}
        for row, box in enumerate(boxes):
            found = []
            for number, prior in enumerate(PRIORS.tolist()):
                apart = [abs(prior[i] + prior[i + 2] - box[i] - box[i + 2]) / 2 for i in range(2)]
                if max(apart) < reach * STEPS[number].item():
                    (x, y), (w, h) = by_hand(prior, box)
                    found.append((-exp(-(hypot(m * x, n * y) + hypot(m * w, n * h))), number))
            for place, (negative, number) in enumerate(sorted(found)[:options.topk]):
                if place == 0 or -negative >= options.positive:
                    best[number] = min(best.get(number, (0.0, row)), (negative, row))
        owners.append([best[number][1] if number in best else -1 for number in range(len(PRIORS))])
    return owners


def test_the_similarity_by_hand():
    """A 16 x 24 prior and a 32 x 8 box, 12 and 4 px apart, m = 2, n = 3: location hypot(2*12/48, 3*4/32), shape
    hypot(2*16/48, 3*16/32)."""
    prior = torch.tensor([[0.0, 0, 16, 24]])
    box = torch.tensor([[[4.0, 12, 36, 20]]])
    found = similarity_distance(prior, box, torch.tensor([2.0, 3.0]))
    assert found.item() == pytest.approx(exp(-(hypot(0.5, 0.375) + hypot(2 / 3, 1.5))))
    assert similarity_distance(prior, prior[None], torch.tensor([2.0, 3.0])).item() == 1


@pytest.mark.parametrize("reach", [inf, 1.0])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 7))
def test_follows_the_paper(reach, seed, count):
    targets = random_targets(2, count, SIDE, 3, seed)
    images = [boxes[valid].double().tolist() for boxes, valid in zip(targets.boxes, targets.valid, strict=True)]
    found = assign_similarity_distance(PRIORS, targets, reach=None if reach == inf else STEPS[:, 0] * reach)
    assert found.tolist() == by_loops(images, reach)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(side=st.floats(0, 40), shift=st.floats(0, 8), stretch=st.floats(0.3, 3))
def test_every_box_gets_a_prior_where_none_lies_near(side, shift, stretch):
    corners = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) * 32 + shift + 4
    half = torch.tensor([side * stretch, side / stretch]).clamp(max=60) / 2
    boxes = torch.cat((corners - half, corners + half), 1)
    found = assign_similarity_distance(PRIORS, targets_of(*boxes.tolist()))
    assert found.unique().tolist() == list(range(-1, 9))
    assert torch.bincount(found[found >= 0]).max() <= SimdOptions().topk


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_the_unit_of_length_does_not_matter(seed, factor):
    targets = random_targets(1, 6, SIDE, 3, seed)
    larger = replace(targets, boxes=targets.boxes * factor)
    assert torch.equal(assign_similarity_distance(PRIORS, targets), assign_similarity_distance(PRIORS * factor, larger))


def test_crowds_padding_and_empty_images_get_nothing():
    crowd = Targets(torch.tensor([[0.0, 0, 90, 90], [40, 40, 60, 60]]), torch.zeros(2, dtype=torch.int64),
                    torch.tensor([True, False]))
    found = assign_similarity_distance(PRIORS, pack_targets([crowd, Targets.empty()]))
    assert found[0].unique().tolist() == [-1, 1] and (found[1] == -1).all()
    assert (assign_similarity_distance(PRIORS, pack_targets([Targets.empty()])) == -1).all()
    assert mean_ratios(PRIORS, pack_targets([Targets.empty()])).tolist() == [0, 0]


def test_chunks_do_not_change_the_result(monkeypatch):
    targets = random_targets(2, 17, SIDE, 3, 3)
    whole = assign_similarity_distance(PRIORS, targets)
    monkeypatch.setattr(padded_indices, "PAIRS_CPU", 1)
    assert torch.equal(whole, assign_similarity_distance(PRIORS, targets))
