"""What must hold for any input of NMS."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

import utils.select
from utils.errors import UserError
from utils.select import SelectConfig, best_scores, find_selector, non_max_suppression


def scene(seed: int, n: int, nc: int, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, n, 2, generator=random) * 60 + offset
    boxes = torch.cat((corner, corner + torch.rand(1, n, 2, generator=random) * 40 + 1), -1)
    scores = torch.rand(1, n, nc, generator=random).mul(20).round() / 20  # many ties
    return boxes, scores


def reference(boxes, scores, conf, iou, max_det, multi_label, agnostic):
    """The definition, one candidate at a time."""
    rows = [(float(s), i, c) for i, line in enumerate(scores.tolist()) for c, s in enumerate(line) if s > conf]
    if not multi_label:
        best = scores.argmax(1).tolist()
        rows = [r for r in rows if best[r[1]] == r[2]]
    overlaps = box_iou(boxes.double(), boxes.double())
    kept = []
    for row in sorted(rows, key=lambda r: -r[0]):
        if all(overlaps[row[1], k[1]] <= iou or (k[2] != row[2] and not agnostic) for k in kept):
            kept.append(row)
    return kept[:max_det]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 40), nc=st.integers(1, 4),
       conf=st.sampled_from([0.0, 0.31, 0.81, 1.0]), iou=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
       max_det=st.sampled_from([0, 1, 5, 300]), multi_label=st.booleans(), agnostic=st.booleans(),
       offset=st.sampled_from([-500.0, 0.0, 5000.0]))
def test_equals_the_definition(seed, n, nc, conf, iou, max_det, multi_label, agnostic, offset):
    boxes, scores = scene(seed, n, nc, offset)
    got = non_max_suppression(boxes, scores, SelectConfig(conf, iou, max_det, None, agnostic, multi_label))[0]
    want = reference(boxes[0], scores[0], conf, iou, max_det, multi_label, agnostic)
    assert got.labels.tolist() == [c for _, _, c in want]
    assert torch.equal(got.boxes, boxes[0][[i for _, i, _ in want]])
    assert torch.equal(got.scores, torch.tensor([s for s, _, _ in want]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 12), conf=st.sampled_from([0.0, 0.5]),
       multi_label=st.booleans())
def test_per_class_takes_the_best_of_each_class_in_input_order(seed, limit, conf, multi_label):
    """With scores full of ties; NMS comes after, so that what is left out suppresses nothing."""
    boxes, scores = scene(seed, 40, 3)
    entered = reference(boxes[0], scores[0], conf, 1.0, 1000, multi_label, False)
    kept = torch.zeros_like(scores)
    for label in range(3):
        for _, i, _ in [row for row in entered if row[2] == label][:limit]:
            kept[0, i, label] = scores[0, i, label]
    got = non_max_suppression(boxes, scores, SelectConfig(conf, 0.4, multi_label=multi_label, per_class=limit))[0]
    want = reference(boxes[0], kept[0], conf, 0.4, 300, True, False)
    assert got.labels.tolist() == [c for _, _, c in want]
    assert torch.equal(got.boxes, boxes[0][[i for _, i, _ in want]])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(0, 30))
def test_max_candidates_takes_the_best_first_in_input_order(seed, limit):
    boxes, scores = scene(seed, 40, 2)
    config = SelectConfig(0.0, 1.0, 300, multi_label=True)
    got = non_max_suppression(boxes, scores, config, max_candidates=limit)[0]
    full = non_max_suppression(boxes, scores, config)[0]
    assert len(got) == min(limit, len(full))
    assert torch.equal(got.boxes, full.boxes[:limit])


@pytest.mark.parametrize("max_det", [20, 10**6])
def test_class_by_class_equals_one_call(monkeypatch, max_det):
    boxes, scores = scene(3, 300, 5)
    config = SelectConfig(0.01, 0.4, max_det, multi_label=True)
    one = non_max_suppression(boxes, scores, config)[0]
    monkeypatch.setattr(utils.select, "_PER_CLASS_FROM", 0)
    many = non_max_suppression(boxes, scores, config)[0]
    assert torch.equal(one.boxes, many.boxes)
    assert torch.equal(one.labels, many.labels)


def test_many_classes_do_not_blur_small_boxes():
    # An offset in float32 would round these 4 px boxes to 1/4 px and see an IoU on the wrong side of the threshold.
    boxes = torch.tensor([[[1000.0, 1000.0, 1004.0, 1004.0], [1001.1, 1000.0, 1005.1, 1004.0]]])
    overlap = float(box_iou(boxes[0].double(), boxes[0].double())[0, 1])
    scores = torch.zeros(1, 2, 5000)
    scores[0, :, 4999] = torch.tensor([0.9, 0.8])
    assert len(non_max_suppression(boxes, scores, SelectConfig(iou=overlap + 1e-3))[0]) == 2
    assert len(non_max_suppression(boxes, scores, SelectConfig(iou=overlap - 1e-3))[0]) == 1


def test_class_filter_and_single_best_class():
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]])
    scores = torch.tensor([[[0.9, 0.8], [0.3, 0.7]]])
    assert non_max_suppression(boxes, scores, SelectConfig(classes=(1,)))[0].scores.tolist() == pytest.approx([0.7])
    both = non_max_suppression(boxes, scores, SelectConfig(classes=(1,), multi_label=True))[0]
    assert both.scores.tolist() == pytest.approx([0.8, 0.7])
    assert len(non_max_suppression(boxes, scores, SelectConfig(classes=()))[0]) == 0


def test_half_precision_and_empty_batches():
    boxes, scores = scene(1, 30, 3)
    found = non_max_suppression(boxes.half(), scores.half(), SelectConfig())[0]
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert non_max_suppression(torch.zeros(0, 5, 4), torch.zeros(0, 5, 3), SelectConfig()) == []
    assert len(non_max_suppression(torch.zeros(1, 0, 4), torch.zeros(1, 0, 3), SelectConfig())[0]) == 0
    nan = torch.full((1, 4, 2), float("nan"))
    assert len(non_max_suppression(torch.zeros(1, 4, 4), nan, SelectConfig())[0]) == 0


@pytest.mark.parametrize("wrong", [{"conf": 25}, {"iou": -0.1}, {"conf": float("nan")}])
def test_thresholds_outside_0_to_1_are_an_error(wrong):
    with pytest.raises(UserError, match=str(*wrong.values())) as error:
        SelectConfig(**wrong)
    assert error.value.code == "bad-value"


def test_shapes_that_disagree_are_an_error():
    with pytest.raises(ValueError, match="expected boxes"):
        non_max_suppression(torch.zeros(1, 2, 4), torch.zeros(1, 3, 1), SelectConfig())


def test_a_selection_is_a_name_or_a_function():
    assert find_selector("nms") is non_max_suppression
    assert find_selector(test_shapes_that_disagree_are_an_error) is test_shapes_that_disagree_are_an_error
    with pytest.raises(UserError, match="'nmss'") as error:
        find_selector("nmss")
    assert error.value.code == "unknown-selection"


def test_less_than_one_of_a_class_is_an_error():
    with pytest.raises(UserError, match="give 1 or more"):
        SelectConfig(per_class=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 4), st.integers(0, 40), st.booleans())
def test_the_best_of_a_set_are_the_best_of_all_pairs(seed, n, nc, max_det, multi_label):
    boxes, scores = scene(seed, n, nc)
    found, = best_scores(boxes, scores, SelectConfig(0.12, 1.0, max_det, multi_label=multi_label))
    rows = [(s, i, c) for i, line in enumerate(scores[0].tolist()) for c, s in enumerate(line) if s > 0.12]
    if not multi_label:
        rows = [row for row in rows if row[2] == int(scores[0, row[1]].argmax())]
    rows = sorted(rows, key=lambda row: -row[0])[:max_det]
    assert found.labels.tolist() == [c for *_, c in rows]
    torch.testing.assert_close(found.scores, torch.tensor([s for s, *_ in rows]))
    assert torch.equal(found.boxes, boxes[0][[i for _, i, _ in rows]])
    with pytest.raises(ValueError, match="expected boxes"):
        best_scores(boxes[..., :3], scores, SelectConfig())


def test_nms_is_torchvisions_whichever_way_it_is_loaded(monkeypatch):
    from torchvision.ops import nms

    boxes, scores = scene(0, 40, 1)
    expected = nms(boxes[0], scores[0, :, 0], 0.3)
    load = utils.select.nms_operator.__wrapped__
    assert load()(boxes[0], scores[0, :, 0], 0.3).tolist() == expected.tolist()
    monkeypatch.setattr(utils.select, "find_spec", lambda name: None)
    assert load() is nms
