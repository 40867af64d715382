"""The statistics of the audit on cases whose answer is known: gates, what a neck adds, gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.audit.gradients import PLACES, measure_gradients, parameters_by_part, shares, squares_by_place
from benchmarks.audit.neck import NeckRecord, look_at_neck, without_added
from benchmarks.audit.neck_report import gate_aucs, level_shares, report_neck
from benchmarks.audit.regions import BACKGROUND, OUTSIDE, mean_over_images, object_aucs, owners
from engine.training.preview import Preview
from models import build_model
from tests.contracts.test_models import narrow
from tests.tiny import ROWS
from utils.structures import Batch, Letterbox, Targets, pack_targets

WHOLE = Letterbox((64, 64), (64, 64), (1.0, 1.0), (0, 0))
BOXES = np.array([[0, 0, 32, 32], [16, 16, 32, 32], [41, 41, 43, 43], [0, 48, 16, 64]], np.float64)
CROWD = np.array([False, False, False, True])


def preview_of(model, weights="", count=6):
    """Batches of three random images with one box each, as a training and as a validation."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for start in range(0, count, 3):
        images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
        targets = pack_targets([Targets(torch.tensor([[8.0, 8, 8 + side, 40]]), torch.zeros(1, dtype=torch.int64))
                                for side in (6, 20, 40)])
        batches.append((images, targets, Batch(images, targets, [start, start + 1, start + 2], [WHOLE] * 3)))
    fake = SimpleNamespace(model=model, amp=None, config=SimpleNamespace(weights=weights, seed=0))
    fake.training_batches = lambda n: batches[:n]
    fake.validation_batches = lambda: batches
    assert all(hasattr(Preview, name) for name in ("training_batches", "validation_batches"))
    return fake


def test_pixels_belong_to_the_smallest_object_and_crowds_and_padding_to_none():
    owner = owners(BOXES, CROWD, (8, 8), WHOLE)
    assert owner[0, 0] == 0 and owner[2, 2] == 1 and (owner == 1).sum() == 4 and (owner == 0).sum() == 12
    assert owner[5, 5] == 2 and (owner == 2).sum() == 1  # no centre of a pixel lies in it
    assert (owner[6:, :2] == OUTSIDE).all() and owner[7, 7] == BACKGROUND
    padded = owners(BOXES[:0], CROWD[:0], (8, 8), Letterbox((32, 64), (64, 64), (1.0, 1.0), (0, 16)))
    assert (padded[:2] == OUTSIDE).all() and (padded[2:6] == BACKGROUND).all() and (padded[6:] == OUTSIDE).all()


def test_a_gate_that_is_the_objects_has_an_auc_of_one_and_a_constant_one_of_a_half():
    owner = owners(BOXES, CROWD, (8, 8), WHOLE)
    for gate, expected in ((owner >= 0, 1.0), (owner < 0, 0.0), (np.full((8, 8), 0.3), 0.5)):
        rows, aucs = object_aucs(gate.astype(np.float64), owner)
        assert rows.tolist() == [0, 1, 2] and aucs.tolist() == [expected] * 3
    assert not len(object_aucs(np.ones((8, 8)), np.zeros((8, 8), np.int64))[0])  # nothing to compare with


def test_an_auc_is_that_of_all_pairs():
    random = np.random.default_rng(0)
    owner = owners(BOXES, CROWD, (8, 8), WHOLE)
    gate = random.integers(0, 6, (8, 8)) / 5
    for row, auc in zip(*object_aucs(gate, owner), strict=True):
        pairs = [(a > b) + (a == b) / 2 for a in gate[owner == row] for b in gate[owner == BACKGROUND]]
        assert auc == pytest.approx(np.mean(pairs))


def test_an_interval_holds_the_mean_and_needs_images():
    values, images = np.array([0.2, 0.4, 0.6, 0.8, 1.0, np.nan]), np.array([0, 1, 2, 3, 4, 5])
    mean = mean_over_images(values, images, 0)
    assert mean.value == pytest.approx(0.6) and 0.2 < mean.low < 0.6 < mean.high < 1
    assert mean_over_images(values[:4], images[:4], 0).low is None
    assert mean_over_images(values[5:], images[5:], 0).value is None
    assert mean_over_images(values, np.zeros(6), 0).low is None  # objects of one image are one draw
    same = mean_over_images(np.full(9, 0.5), np.arange(9), 0)
    assert (same.low, same.high) == (0.5, 0.5)


@pytest.mark.parametrize(("own", "other", "said"), [
    (1.0, 0.5, "it is higher on them"), (0.1, 0.5, "it is lower on them"), (0.5, 0.5, "no sign that it looks at them")])
def test_a_gate_is_judged_against_that_of_another_image(own, other, said):
    record = NeckRecord("row 9, ASSN", [], [np.array([0.5, 0.1, 0, 0])] * 8,
                        [(image, 12.0, own, other, 0.0) for image in range(8)])
    told = report_neck([record], [8], 0, fresh=False).said
    assert len(told) == 2 and all(said in line for line in told) and "below 16 px" in told[0]
    assert gate_aucs(record, 0)["8-16"][0] == 8 and gate_aucs(record, 0)["16-32"][1].value is None


@pytest.mark.parametrize("neck", [{"type": "assn"}, {"type": "assn", "merge": "concat"}, {"type": "ssfpn"},
                                  {"type": "ssfpn", "merge": "add"}])
@pytest.mark.parametrize("weights", ["", "best.pt"])
def test_a_neck_is_looked_at_and_left_as_it_was(neck, weights):
    torch.manual_seed(0)
    model = build_model({**ROWS, "neck": neck}, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    record, = look_at_neck(preview_of(model, weights))
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert bool(record.objects) == bool(record.channels) == (neck["type"] == "assn")
    assert len(record.added) == 6 and min(record.added) > 0 and len(record.changed) == 2
    assert record.changed[0][0] > 0 and not record.changed[0][1:].any()  # the head alone reads the new map
    found = level_shares(record)
    assert record.levels == ["P3", "P4", "P5"]
    assert all(row.sum() == pytest.approx(1, abs=1e-5) for row in found.values())
    assert {"all pixels", "background", "8-16", "16-32", "32-96"} == set(found)


def test_a_neck_that_adds_nothing_is_said_to_be_its_base():
    model = build_model({**ROWS, "neck": {"type": "assn"}}, 3)
    with torch.no_grad():
        for part in (model.model[-2].elan.cv3.bn.weight, model.model[-2].elan.cv3.bn.bias):
            part.zero_()
    records = look_at_neck(preview_of(model))
    assert not any(records[0].added) and not np.any(records[0].changed)
    assert "the neck changes nothing yet: what it adds is zero, so the model is its base" in report_neck(
        records, [8, 16, 32], 0, fresh=True).said


def test_without_a_neck_the_page_says_so():
    records = look_at_neck(preview_of(build_model(ROWS, 3)))
    assert not records and "no scale-sequence neck" in report_neck(records, [8, 16, 32], 0, fresh=True).said[0]


def test_what_a_neck_adds_is_found_before_or_behind_the_finest_level():
    finest, new = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    zeros = torch.zeros_like(new)
    for given, left in (((finest, new), (finest, zeros)), ((new, finest), (zeros, finest))):
        assert torch.equal(without_added([finest], torch.cat(given, 1)), torch.cat(left, 1))
    assert without_added([finest], finest + 1) is finest


@pytest.mark.parametrize("name", ["yolov8n", "yolov5n-assn", "retinanet-r18"])
def test_shares_of_gradients_sum_to_one_and_nothing_changes(name):
    torch.manual_seed(0)
    model = build_model(narrow(name), 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = measure_gradients(preview_of(model), 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for values in (found.levels, found.terms, found.places.sum(0)):
        assert shares(values).sum() == pytest.approx(1) and values.min() >= 0
    assert found.terms.shape == (len(found.names), len(found.levels)) and found.levels.min() > 0
    np.testing.assert_allclose(found.places.sum(1), found.levels, rtol=1e-4)  # no crowd, no padding: every cell counts
    assert ("neck" in found.parts) == name.endswith("assn")
    assert sum(n for _, n in found.parts.values()) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_gradients_are_those_of_a_backward_pass():
    torch.manual_seed(0)
    model = build_model(ROWS, 3)
    preview = preview_of(model)
    found = measure_gradients(preview, 1)
    images, targets, _ = preview.training_batches(1)[0]
    maps = []
    handle = model.head.register_forward_pre_hook(
        lambda _, inputs: maps.extend(x.retain_grad() or x for x in inputs[0]))
    sum(model.train().loss(model(images, targets=targets), targets).values()).backward()
    handle.remove()
    np.testing.assert_allclose(found.levels, [float(x.grad.square().sum()) for x in maps], rtol=1e-3)
    for name, part in parameters_by_part(model).items():
        squares = sum(float(p.grad.square().sum()) for p in part if p.grad is not None)
        assert found.parts[name][0] == pytest.approx(squares, rel=1e-3)


def test_a_gradient_arrives_where_its_cells_lie():
    gradient = torch.zeros(1, 2, 8, 8)
    gradient[0, 0, 2, 2], gradient[0, 1, 7, 7], gradient[0, 0, 7, 0] = 3.0, 4.0, 100.0  # object 1, background, crowd
    targets = pack_targets([Targets(torch.tensor(BOXES, dtype=torch.float32), torch.zeros(4, dtype=torch.int64),
                                    torch.tensor(CROWD))])
    squares, cells = squares_by_place(gradient, targets, (64, 64))
    assert dict(zip(PLACES, squares, strict=True)) == {"background": 16, "< 8": 0, "8-16": 0, "16-32": 9, "32-96": 0,
                                                       ">= 96": 0}
    assert cells.tolist() == [64 - 4 - 1 - 4 - 12, 1, 0, 4, 12, 0]
