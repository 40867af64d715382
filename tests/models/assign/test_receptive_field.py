"""RFLA against loops written from the paper's equations, and what must hold for any boxes."""

from math import inf, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.assign import padded_indices
from models.assign.receptive_field import RflaOptions, assign_receptive_field, divergences
from models.boxes.decoding import anchor_points
from tests.models.loss_cases import STRIDES, random_targets
from utils.structures import PackedTargets, Targets, pack_targets

SIDE = 128
POINTS, STEPS = anchor_points([(SIDE // s, SIDE // s) for s in STRIDES], STRIDES, torch.device("cpu"), torch.float64)
WITHIN = [inf, 1.0]


def targets_of(*boxes: list[float]) -> PackedTargets:
    return pack_targets([Targets(torch.tensor(boxes, dtype=torch.float32), torch.zeros(len(boxes), dtype=torch.int64))])


def score(point: int, box: list[float], radius: float) -> float:
    """Equations 2 to 6: RFD = 1 / (1 + KL(N(point, radius^2 I) || N(centre, diag(w^2/4, h^2/4))))."""
    (x, y), (x1, y1, x2, y2) = POINTS[point].tolist(), box
    e, gx, gy = radius**2, (x2 - x1) ** 2 / 4, (y2 - y1) ** 2 / 4  # variances
    trace = e / gx + e / gy
    distance = (x - (x1 + x2) / 2) ** 2 / gx + (y - (y1 + y2) / 2) ** 2 / gy
    return 1 / (1 + (trace + distance + log(gx * gy / (e * e)) - 2) / 2)


def by_loops(boxes: list[list[float]], options: RflaOptions, within: float) -> list[int]:
    """Section 3.3, one box and one point at a time."""
    owner = [-1] * len(POINTS)
    for factor, k in ((1.0, options.topk), (options.decay, 1)):
        claims: dict[int, list[tuple[float, int]]] = {}
        for row, box in enumerate(boxes):
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            asked = []
            for n, ((px, py), (step,)) in enumerate(zip(POINTS.tolist(), STEPS.tolist(), strict=True)):
                if owner[n] < 0 and abs(px - x) < within * step and abs(py - y) < within * step:
                    asked.append((-score(n, box, options.radius * factor * step), n))
            for negative, n in sorted(asked)[:k]:
                claims.setdefault(n, []).append((negative, row))
        for n, rows in claims.items():
            owner[n] = min(rows)[1]
    return owner


def test_the_score_of_a_point_by_hand():
    """A 16 x 8 px box about (20, 20); the point (20, 20) of stride 8, radius 24: (9 + 36 + ln(64*16/24^4) - 2) / 2."""
    point = int((torch.tensor([20.0, 20]) == POINTS).all(1).nonzero()[0])
    expected = (9 + 36 + log(64 * 16 / 24**4) - 2) / 2
    box = [12.0, 16, 28, 24]
    assert score(point, box, 24) == pytest.approx(1 / (1 + expected))
    found = divergences(POINTS, STEPS[:, 0] * 3, torch.tensor([[box]], dtype=torch.float64))[0, 0, point]
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("within", WITHIN)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 9))
def test_follows_the_paper(within, seed, count):
    targets = random_targets(2, count, SIDE, 3, seed)
    found = assign_receptive_field(POINTS, STEPS, targets, within=within)
    for own, valid, boxes in zip(found, targets.valid, targets.boxes, strict=True):
        assert own.tolist() == by_loops(boxes[valid].double().tolist(), RflaOptions(), within)


@pytest.mark.parametrize("within", WITHIN)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(side=st.floats(0, 40), shift=st.floats(0, 8), stretch=st.floats(0.3, 3))
def test_every_box_gets_a_point_where_none_lies_within_a_stride(within, side, shift, stretch):
    """Sixteen boxes 32 px apart, of any size down to none."""
    corners = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) * 32 + shift + 4
    half = torch.tensor([side * stretch, side / stretch]).clamp(max=60) / 2
    boxes = torch.cat((corners - half, corners + half), 1)
    found = assign_receptive_field(POINTS, STEPS, targets_of(*boxes.tolist()), within=within)
    assert found.unique().tolist() == list(range(-1, 16))
    assert torch.bincount(found[found >= 0]).max() <= RflaOptions().per_box


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12))
def test_the_order_of_boxes_does_not_matter(seed, count):
    boxes = random_targets(1, count, SIDE, 3, seed).boxes[0]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    plain = assign_receptive_field(POINTS, STEPS, targets_of(*boxes.tolist()))[0]
    found = assign_receptive_field(POINTS, STEPS, targets_of(*boxes[order].tolist()))[0]
    assert torch.equal(torch.where(found >= 0, order[found.clamp(min=0)], -1), plain)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_a_shift_by_the_longest_stride_shifts_the_points(seed):
    inside = random_targets(1, 4, 64, 3, seed, largest=0.3).boxes[0] + 16  # far enough from the border
    first, second = (assign_receptive_field(POINTS, STEPS, targets_of(*(inside + shift).tolist()))[0]
                     for shift in (0.0, 32.0))
    for row in range(4):
        moved = torch.cat((POINTS, STEPS), 1)[first == row] + torch.tensor([32.0, 32, 0])
        assert {*map(tuple, moved.tolist())} == {*map(tuple, torch.cat((POINTS, STEPS), 1)[second == row].tolist())}


def test_crowds_padding_and_empty_images_get_nothing():
    crowd = Targets(torch.tensor([[0.0, 0, 90, 90], [40, 40, 60, 60]]), torch.zeros(2, dtype=torch.int64),
                    torch.tensor([True, False]))
    found = assign_receptive_field(POINTS, STEPS, pack_targets([crowd, Targets.empty()]))
    assert found[0].unique().tolist() == [-1, 1] and (found[1] == -1).all()
    assert (assign_receptive_field(POINTS, STEPS, pack_targets([Targets.empty()])) == -1).all()


def test_a_box_learns_at_the_level_whose_radius_is_nearest_to_half_its_side():
    found = assign_receptive_field(POINTS, STEPS, targets_of([50, 50, 56, 56], [2, 2, 126, 126]))[0]
    assert STEPS[found == 0].unique().tolist() == [8.0] and STEPS[found == 1].unique().tolist() == [16.0]


def test_fewer_points_than_a_box_claims():
    found = assign_receptive_field(POINTS[-2:], STEPS[-2:], targets_of([70, 70, 80, 80]))
    assert found.tolist() == [[0, 0]]


def test_chunks_do_not_change_the_result(monkeypatch):
    targets = random_targets(2, 17, SIDE, 3, 3)
    whole = assign_receptive_field(POINTS, STEPS, targets)
    monkeypatch.setattr(padded_indices, "PAIRS_CPU", 1)
    assert torch.equal(whole, assign_receptive_field(POINTS, STEPS, targets))
