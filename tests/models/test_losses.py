"""Losses: bounds and symmetry of similarities, crowds, empty batches, precision, options; nothing stops a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boxes.similarity import KINDS
from models.heads.dfl import DFLDetect
from models.losses import AnchorLossConfig, anchor_head_loss, box_similarity, scale_gains
from tests.models.loss_cases import (
    HEADS,
    PRIOR_HEADS,
    STRIDES,
    V7_ANCHORS,
    V7_GAINS,
    V8_GAINS,
    anchor_maps,
    anchor_raw,
    head_loss,
    head_maps,
    pad_as_on_cuda,
    random_targets,
)
from utils.errors import UserError
from utils.structures import PackedTargets, Targets, pack_targets

BOUNDS = {"iou": (0, 1), "giou": (-1, 1), "diou": (-1, 1), "ciou": (-2, 1), "sca": (-5, 1),
          "eiou": (-3, 1), "siou": (-2, 1), "mpdiou": (-2, 1), "nwd": (0, 1)}
SIZE = 256


def _maps(head, batch=2, classes=3, dtype=torch.float32):
    return head_maps(head, batch, classes, SIZE, dtype)


def _loss(head, maps, targets, size=SIZE, **options):
    return head_loss(head, maps, targets, size, **options)


def _run(head, targets, **options):
    maps = _maps(head)
    losses = _loss(head, maps, targets, **options)
    sum(losses.values()).backward()
    return torch.stack(list(losses.values())).detach(), [m.grad for m in maps]


side = st.floats(0.5, 400, width=32)
corner = st.floats(-100, 1000, width=32)
boxes = st.tuples(corner, corner, side, side).map(lambda b: torch.tensor([b[0], b[1], b[0] + b[2], b[1] + b[3]]))


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(a=boxes, b=boxes)
def test_similarity_is_bounded_symmetric_and_one_for_equals(kind, a, b):
    score = box_similarity(a, b, kind, image_size=(1500, 1500))
    low, high = BOUNDS[kind]
    assert low - 1e-4 <= score <= high + 1e-4
    torch.testing.assert_close(score, box_similarity(b, a, kind, image_size=(1500, 1500)), rtol=1e-5, atol=1e-5)
    assert box_similarity(a, a, kind, image_size=(1500, 1500)) == pytest.approx(1, abs=1e-4)


def test_similarity_broadcasts_and_computes_in_float32():
    a, b = torch.rand(4, 1, 4).cumsum(-1), torch.rand(1, 5, 4).cumsum(-1)
    table = box_similarity(a, b)
    assert table.shape == (4, 5)
    torch.testing.assert_close(table[2, 3], box_similarity(a[2, 0], b[0, 3]))
    assert box_similarity(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    assert box_similarity(a.double(), b.double()).dtype == torch.float64


def test_wrong_words_are_told_with_the_nearest_right_one():
    targets = random_targets(2, 2, SIZE, 3)
    with pytest.raises(UserError, match="'ciou'"):
        box_similarity(torch.rand(4), torch.rand(4), "cioo")
    with pytest.raises(UserError, match="'giou'"):
        _loss("dfl", _maps("dfl"), targets, box_loss="giuo")
    with pytest.raises(UserError, match="did you mean 'anchor'"):
        AnchorLossConfig(V7_GAINS, "anchors")
    with pytest.raises(ValueError, match="stride 8"):
        _loss("anchor", _maps("anchor"), targets, size=320)


@pytest.mark.parametrize("head", HEADS)
def test_no_boxes_leave_only_background(head):
    bare = [Targets.empty(), Targets.empty()]
    values, grads = _run(head, pack_targets(bare))
    terms = dict(zip(_loss(head, _maps(head), pack_targets(bare)), values.tolist(), strict=True))
    background = terms.pop("cls" if head == "dfl" else "obj")
    assert background > 0 and all(value == 0 for value in terms.values())
    assert all(g.isfinite().all() for g in grads)
    # padding of a batch whose only boxes are crowds far away is the same as no padding
    far = Targets(torch.tensor([[-9.0, -9, -8, -8]]), torch.zeros(1, dtype=torch.int64), torch.tensor([True]))
    torch.testing.assert_close(_run(head, pack_targets([far, bare[1]]))[0], values)


@pytest.mark.parametrize("head", HEADS + PRIOR_HEADS)
def test_padded_lists_of_a_gpu_give_the_same_loss_and_gradients(head, monkeypatch):
    targets = random_targets(2, 12, SIZE, 3, seed=4)
    values, grads = _run(head, targets)
    pad_as_on_cuda(monkeypatch)
    padded_values, padded_grads = _run(head, targets)
    torch.testing.assert_close(padded_values, values)
    torch.testing.assert_close(padded_grads, grads)


@pytest.mark.parametrize("head", HEADS + PRIOR_HEADS)
def test_nothing_reads_a_value_back_from_the_device(head):
    """The meta device has shapes and no values: what runs there cannot stop a GPU to look at data."""
    maps = [m.detach().to("meta").requires_grad_() for m in _maps(head)]
    sum(_loss(head, maps, random_targets(2, 6, SIZE, 3).to("meta")).values()).backward()
    assert all(m.grad.shape == m.shape for m in maps)


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 15))
def test_order_and_padding_of_boxes_do_not_matter(head, seed, count):
    targets = random_targets(2, count, SIZE, 3, seed)
    values, _ = _run(head, targets)
    order = torch.randperm(count + 3, generator=torch.Generator().manual_seed(seed))
    padded = PackedTargets(*(torch.cat((t, t.new_zeros(2, 3, *t.shape[2:])), 1)[:, order] for t in (
        targets.boxes, targets.labels, targets.ignore, targets.valid)))
    torch.testing.assert_close(_run(head, padded)[0], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_crowd_regions_teach_nothing(head):
    crowd = Targets(torch.tensor([[40.0, 40, 200, 120]]), torch.zeros(1, dtype=torch.int64), torch.tensor([True]))
    _, grads = _run(head, pack_targets([crowd, Targets.empty()]))
    for k, grad in enumerate(grads):
        stride = STRIDES[k % 3]
        y, x = (torch.arange(SIZE // stride) + 0.5).mul(stride).unsqueeze(0).expand(2, -1)
        inside = ((y > 40) & (y < 120))[:, None] & ((x > 40) & (x < 200))
        if head == "dfl":
            taught = grad.abs().sum(1)  # (B, h, w)
            if k < 3:  # the box branch never learns from background
                assert not taught.any()
                continue
        else:
            taught = grad.abs().sum((1, 4))
        assert inside.any() and not taught[0][inside].any()
        assert taught[0][~inside].all() and taught[1].all()


@pytest.mark.parametrize("head", HEADS)
def test_background_inside_an_object_is_taught(head):
    whole = Targets(torch.tensor([[10.0, 10, 250, 250]]), torch.zeros(1, dtype=torch.int64))
    _, grads = _run(head, pack_targets([whole, Targets.empty()]))
    confidence = [g.abs().sum(1) for g in grads[3:]] if head == "dfl" else [g[..., 4].abs() for g in grads]
    assert all(c.all() for c in confidence)


@pytest.mark.parametrize("head", ["dfl", "anchor", "ota"])
def test_an_object_inside_a_crowd_is_still_learnt(head):
    one = Targets(torch.tensor([[80.0, 60, 120, 100]]), torch.tensor([1]))
    both = Targets(torch.tensor([[80.0, 60, 120, 100], [40, 40, 200, 120]]), torch.tensor([1, 0]),
                   torch.tensor([False, True]))
    alone, together = (_run(head, pack_targets([t, Targets.empty()]))[0] for t in (one, both))
    background = 1
    for i in {0, 1, 2} - {background}:
        torch.testing.assert_close(alone[i], together[i])
    assert together[background] < alone[background]


@pytest.mark.parametrize("head", HEADS + PRIOR_HEADS)
def test_losses_are_float32_under_autocast_and_float64_on_request(head):
    targets = random_targets(2, 6, SIZE, 3, seed=2)
    exact = _loss(head, _maps(head, dtype=torch.float64), targets)
    assert all(v.dtype == torch.float64 for v in exact.values())
    maps = _maps(head, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = _loss(head, maps, targets)
    assert all(v.dtype == torch.float32 for v in half.values())
    sum(half.values()).backward()
    assert all(m.grad.dtype == torch.bfloat16 and m.grad.isfinite().all() for m in maps)
    single = _loss(head, [m.float() for m in maps], targets)
    torch.testing.assert_close(half, single)


@pytest.mark.parametrize("assign", ["anchor", "ota"])
def test_memory_layout_of_the_maps_does_not_matter(assign):
    """A head may hand over a permuted view of a channels_last convolution."""
    targets = random_targets(2, 6, SIZE, 3, seed=3)
    plain = _maps(assign)
    flat = [m.detach().permute(0, 1, 4, 2, 3).flatten(1, 2) for m in plain]
    flat = [m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in flat]
    views = [m.unflatten(1, (3, 8)).permute(0, 1, 3, 4, 2) for m in flat]
    losses = [sum(_loss(assign, maps, targets).values()) for maps in (plain, views)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for a, b in zip(plain, flat, strict=True):
        torch.testing.assert_close(a.grad.permute(0, 1, 4, 2, 3).flatten(1, 2), b.grad)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_similarity_trains_every_head(head, kind):
    values, grads = _run(head, random_targets(2, 6, SIZE, 3, seed=5), box_loss=kind)
    assert values.isfinite().all() and values[0] > 0
    assert all(g.isfinite().all() for g in grads)


def test_gradients_agree_with_finite_differences():
    """The hand-written split of the map; assignment "anchor" does not depend on the map."""
    targets = random_targets(1, 2, 32, 2, seed=1)
    maps = [m.double().requires_grad_() for m in anchor_maps(1, 2, 32, [16])]

    def total(level):
        config = AnchorLossConfig(V7_GAINS, box_loss="giou")
        losses = anchor_head_loss(anchor_raw([level], 32), V7_ANCHORS[1:2], [16], targets, config)
        return losses["box"] + losses["cls"]  # the objectness target moves with the boxes, without gradient

    assert torch.autograd.gradcheck(total, maps)


def test_class_and_objectness_options():
    targets = random_targets(2, 8, SIZE, 3, seed=6)
    plain, smooth, focal = (_run("anchor", targets, **options)[0] for options in
                            ({}, {"label_smoothing": 0.1}, {"focal_gamma": 1.5}))
    assert smooth[0] == plain[0] and smooth[1] == plain[1] and smooth[2] != plain[2]
    assert focal[0] == plain[0] and focal[1] < plain[1] and focal[2] < plain[2]
    finest = _run("anchor", targets, balance=(8.0, 2.0, 0.8))[0]
    torch.testing.assert_close(finest[1], 2 * plain[1])

    single = random_targets(2, 8, SIZE, 1, seed=6)
    losses = _loss("anchor", _maps("anchor", classes=1), single)
    assert losses["cls"] == 0 and losses["box"] > 0


def test_boxes_that_share_an_anchor_set_its_objectness_by_the_best():
    """Box logits of zero predict the anchor itself, centred on its cell: one box equals it, the other is shifted."""
    maps = [torch.zeros_like(m) for m in anchor_maps(1, 3, SIZE)]
    for m in maps:
        m[..., 4] = 1  # at a logit of zero the loss would not depend on the target

    def objectness(*boxes):
        target = Targets(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64))
        return _loss("anchor", maps, pack_targets([target]))["obj"]

    equal, shifted = [90.5, 82.0, 109.5, 118.0], [92.5, 84.0, 111.5, 120.0]
    torch.testing.assert_close(objectness(equal, shifted), objectness(shifted, equal))
    torch.testing.assert_close(objectness(equal, equal), objectness(equal))
    assert objectness(equal, shifted) < objectness(shifted)


def test_gains_by_every_rule():
    gains = {"box": 1.0, "obj": 1.0, "cls": 1.0}
    assert scale_gains(gains, 4, 40, 1280, "yolov5") == {"box": 0.75, "obj": 3.0, "cls": 0.375}
    assert scale_gains(gains, 4, 80, 1280, "yolov4") == {"box": 0.75, "obj": pytest.approx(1.05), "cls": 0.75}
    head = DFLDetect([16] * 4, 3, strides=[8, 16, 32, 64])
    assert head.scale_gains(V8_GAINS, 1280) == V8_GAINS
