"""Box losses by name: values against the papers' formulas in plain numbers, gradients, mixtures, and WIoU's mean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boxes.similarity import KINDS, register_kind
from models.detector import build_model
from models.losses import box_similarity
from models.losses.box_loss import BoxLoss, MeanIoULoss, loss_sums
from tests.contracts.test_models import images, narrow, targets
from tests.models.loss_cases import HEADS, head_loss, head_maps, random_targets
from utils.errors import UserError

IMAGE = 480, 640  # height, width
PLAIN = [k for k in KINDS if k != "nwd"]
MIXED = [f"inner-{k}" for k in PLAIN] + [f"{k}+nwd" for k in PLAIN] + ["inner-ciou+nwd"]
NAMES = [*KINDS, "focal-eiou", "wiou", "wiou-v1", "wiou-v3", *MIXED]
# apart, touching at a corner, one in the other, tiny, equal, elongated across each other, centres on one line
PAIRS = [((10, 10, 30, 40), (50, 60, 80, 70)), ((0, 0, 8, 8), (8, 8, 16, 16)), ((0, 0, 100, 60), (20, 10, 50, 30)),
         ((5, 5, 9, 8), (6, 5, 10, 9)), ((3, 4, 17, 11), (3, 4, 17, 11)), ((0, 40, 100, 50), (45, 0, 55, 100)),
         ((10, 10, 22, 22), (13, 10, 25, 22)), ((100.5, 80.25, 103.5, 84), (101, 80, 103, 85))]


def reference(name: str, a, b, mean: float = 1.0) -> float:
    """The loss of two boxes in pixels, as the papers write it, without any eps; options at their defaults."""
    if name.endswith("+nwd"):
        return 0.5 * reference(name.removesuffix("+nwd"), a, b) + 0.5 * reference("nwd", a, b)
    if name.startswith("inner-"):
        scaled = [((x1 + x2) / 2 - 0.6 * (x2 - x1), (y1 + y2) / 2 - 0.6 * (y2 - y1), (x1 + x2) / 2 + 0.6 * (x2 - x1),
                   (y1 + y2) / 2 + 0.6 * (y2 - y1)) for x1, y1, x2, y2 in (a, b)]
        return reference(name.removeprefix("inner-"), a, b) - reference("iou", a, b) + reference("iou", *scaled)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
    inner = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    iou = inner / (aw * ah + bw * bh - inner)
    hull_w, hull_h = max(ax2, bx2) - min(ax1, bx1), max(ay2, by2) - min(ay1, by1)
    dx, dy = (bx1 + bx2 - ax1 - ax2) / 2, (by1 + by2 - ay1 - ay2) / 2
    rho2, diagonal2 = dx**2 + dy**2, hull_w**2 + hull_h**2
    eiou = 1 - iou + rho2 / diagonal2 + (aw - bw) ** 2 / hull_w**2 + (ah - bh) ** 2 / hull_h**2
    attention = math.exp(rho2 / diagonal2) * (1 - iou)
    if name in ("wiou", "wiou-v3"):
        beta = (1 - iou) / mean
        return attention * beta / (3 * 1.9 ** (beta - 3))
    if name == "siou":
        sine = min(1, abs(dy) / math.sqrt(rho2)) if rho2 else 0.0
        gamma = 2 - (1 - 2 * math.sin(math.asin(sine) - math.pi / 4) ** 2)
        distance = sum(1 - math.exp(-gamma * t) for t in ((dx / hull_w) ** 2, (dy / hull_h) ** 2))
        shape = sum((1 - math.exp(-abs(s - t) / max(s, t))) ** 4 for s, t in ((aw, bw), (ah, bh)))
        return 1 - iou + (distance + shape) / 2
    if name == "sca":
        overlap = sum((min(hi) - max(lo)) / (max(hi) - min(lo))
                      for lo, hi in (((ax1, bx1), (ax2, bx2)), ((ay1, by1), (ay2, by2))))
        corners = math.dist((ax1, ay1), (bx1, by1)) + math.dist((ax2, ay2), (bx2, by2))
        return 2 - overlap + corners / math.sqrt(diagonal2)
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return {"iou": 1 - iou, "giou": 1 - iou + 1 - (aw * ah + bw * bh - inner) / (hull_w * hull_h),
            "diou": 1 - iou + rho2 / diagonal2, "eiou": eiou, "focal-eiou": math.sqrt(iou) * eiou,
            "ciou": 1 - iou + rho2 / diagonal2 + (v * v / (1 - iou + v) if v else 0.0), "wiou-v1": attention,
            "mpdiou": 1 - iou + (math.dist((ax1, ay1), (bx1, by1)) ** 2 + math.dist((ax2, ay2), (bx2, by2)) ** 2)
            / (480**2 + 640**2),
            "nwd": 1 - math.exp(-math.sqrt(rho2 + ((aw - bw) ** 2 + (ah - bh) ** 2) / 4) / 12.8)}[name]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_papers(name):
    a, b = (torch.tensor(boxes, dtype=torch.float64) for boxes in zip(*PAIRS, strict=True))
    expected = torch.tensor([reference(name, *pair) for pair in PAIRS], dtype=torch.float64)
    if "nwd" not in name:  # whose root has an eps: 0.0003 px
        torch.testing.assert_close(BoxLoss(name)(a, b, 1.0, IMAGE)[0], expected, rtol=1e-6, atol=1e-6)
    # in units of 8 px, as a head has them, the value is the same: of the kinds in pixels too
    loss, _ = BoxLoss(name)(a.float() / 8, b.float() / 8, torch.full((len(a),), 8.0), IMAGE)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("options", "name", "value"), [
    ({"nwd_c": 5.0}, "nwd", 1 - math.exp(-1 / 5)), ({"inner_ratio": 0.5}, "inner-iou", 1 - 4 / 6),
    ({"nwd_weight": 0.25}, "iou+nwd", 0.75 * (1 - 9 / 11) + 0.25 * (1 - math.exp(-1 / 12.8))),
    ({"eiou_gamma": 2.0}, "focal-eiou", (9 / 11) ** 2 * (2 / 11 + 1 / (11**2 + 10**2))),
    ({"wiou_alpha": 1.5, "wiou_delta": 2.0}, "wiou",
     math.exp(1 / 221) * 2 / 11 * (2 / 11) / (2 * 1.5 ** (2 / 11 - 2)))])
def test_every_option_is_read(options, name, value):
    """10 px boxes, one px apart: IoU 9/11; scaled by a half, 4 of 6 columns are common."""
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[1.0, 0, 11, 10]])
    assert BoxLoss(name, options)(a, b)[0].item() == pytest.approx(value, rel=1e-4)
    assert BoxLoss(name)(a, b)[0].item() != pytest.approx(value, rel=1e-3)


place, side = st.floats(-20, 60, width=32), st.just(0) | st.floats(2**-10, 40, width=32)
boxes = st.tuples(place, place, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(a=boxes, b=boxes)
def test_gradients_are_finite_whatever_the_boxes(name, a, b):
    """Also of equal ones, of boxes apart, and without a side."""
    pairs = [(a, b), (a, a), (a[:2] * 2, [a[0], a[1], a[0] + 4, a[1] + 4])]
    if "sca" in name:  # divides by the sides of the hull, as its authors do
        pairs = [(p, q) for p, q in pairs if all(max(p[i + 2], q[i + 2]) > min(p[i], q[i]) for i in (0, 1))]
    predicted, truth = (torch.tensor(side) for side in zip(*pairs, strict=True))
    predicted.requires_grad_()
    loss, score = BoxLoss(name)(predicted, truth, 8.0, IMAGE)
    loss.sum().backward()
    assert loss.isfinite().all() and predicted.grad.isfinite().all() and score.isfinite().all()


def test_only_the_kinds_in_pixels_depend_on_the_scale():
    a, b = torch.tensor([[10.0, 10, 22, 26]]), torch.tensor([[13.0, 9, 27, 22]])
    for name in NAMES:
        if "mpdiou" not in name:
            small, large = (BoxLoss(name)(a * s, b * s, 1.0, IMAGE)[0] for s in (1, 3))
            assert torch.allclose(small, large, rtol=1e-4) == ("nwd" not in name), name


def test_boxes_far_from_an_object_still_learn_by_nwd_and_not_by_iou():
    truth = torch.tensor([[20.0, 20, 26, 26]])
    for name, learns in (("iou", False), ("focal-eiou", False), ("nwd", True), ("iou+nwd", True), ("eiou", True)):
        predicted = torch.tensor([[40.0, 20, 46, 26]], requires_grad=True)
        BoxLoss(name)(predicted, truth)[0].sum().backward()
        assert bool(predicted.grad.any()) == learns, name


@pytest.mark.parametrize(("name", "score"), [("focal-eiou", "eiou"), ("wiou", "iou"), ("wiou-v1", "iou")])
def test_the_objectness_target_is_the_similarity_without_weight(name, score):
    a, b = (torch.tensor(boxes, dtype=torch.float32) for boxes in zip(*PAIRS, strict=True))
    assert torch.equal(BoxLoss(name)(a, b)[1], box_similarity(a, b, score))


def test_names_that_are_none_and_options_that_are_not_read():
    for name, told in (("cioo", "did you mean 'ciou'"), ("inner-cio", "did you mean 'inner-ciou'"),
                       ("inner-nwd", "made of one of iou, giou"), ("wiou+nwd", "made of one of"),
                       *((name, "is not one of iou") for name in ("nwd+ciou", "inner-inner-iou", "iou+nwd+nwd", None))):
        with pytest.raises(UserError, match=told):
            BoxLoss(name)
    for name, options, told in (("ciou", {"nwd_c": 9.0}, "'ciou' does not read 'nwd_c'"),
                                ("nwd", {"nwd_k": 9.0}, "did you mean 'nwd_c'"),
                                ("nwd", {"nwd_c": "9"}, "expected a number"),
                                ("nwd", {"nwd_weight": 0.1}, "does not read 'nwd_weight'")):
        with pytest.raises(UserError, match=told):
            BoxLoss(name, options)
    for name in ("my+loss", "inner-mine"):
        with pytest.raises(ValueError, match="make mixtures"):
            register_kind(name)


@pytest.mark.parametrize("model", ["ssd300", "retinanet-r18", "salience-detr-r18"])
def test_heads_with_a_box_loss_of_their_own_refuse_another(model):
    with pytest.raises(UserError, match=r"row \d+ \(\w+\): this head has no box_loss; drop box_loss='nwd'$"):
        build_model(model, 3, box_loss="nwd")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["focal-eiou", "wiou", "wiou-v1", "ciou+nwd", "inner-sca", "inner-siou+nwd"])
def test_every_head_learns_by_them(head, name):
    maps = head_maps(head, 2, 3, 128)
    losses = head_loss(head, maps, random_targets(2, 6, 128, 3, seed=5), 128, box_loss=name)
    sum(losses.values()).backward()
    assert all(value.isfinite() and value > 0 for value in losses.values())
    assert all(m.grad.isfinite().all() for m in maps)


@pytest.mark.parametrize("model", ["yolov3-tiny", "yolov5n", "yolov7-tiny", "yolov7-w6", "yolov8n"])
def test_every_family_takes_them_by_name(model):
    torch.manual_seed(0)
    names = ["wiou", "focal-eiou", "nwd", "mpdiou", "inner-ciou", "ciou+nwd", "sca"]
    with torch.device("meta"):
        losses = [build_model(narrow(model), box_loss=name).head.loss_config.box_loss for name in names]
    assert losses == names
    model = build_model(narrow(model, depth=0.3), box_loss="inner-siou+nwd").train()
    terms = model.loss(model(images(model)), targets())
    sum(terms.values()).backward()
    assert terms["box"].isfinite() and terms["box"] > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("head", HEADS)
def test_the_mean_follows_the_positives_in_training_alone(head):
    """By 0.01 towards the mean of 1 - IoU of each batch; what it is shows in the loss of the next."""
    maps, targets, mean = head_maps(head, 2, 3, 128), random_targets(2, 6, 128, 3, seed=5), MeanIoULoss(0.01)
    first, second, third = (head_loss(head, maps, targets, 128, box_loss="wiou", mean=mean)["box"] for _ in range(3))
    assert 0.97 < mean.value < 1 and first != second != third
    before = mean.value.clone()
    mean.eval()
    assert torch.equal(*(head_loss(head, maps, targets, 128, box_loss="wiou", mean=mean)["box"] for _ in range(2)))
    head_loss(head, maps, random_targets(2, 0, 128, 3), 128, box_loss="wiou", mean=mean.train())  # no positives
    assert torch.equal(mean.value, before)


@pytest.mark.parametrize("head", HEADS)
def test_processes_share_one_mean(head):
    maps, targets = [m.detach() for m in head_maps(head, 4, 3, 64, torch.float64)], random_targets(4, 8, 64, 3, seed=3)
    halves, told = [slice(1), slice(1, 4)], []
    for half in halves:
        head_loss(head, [m[half] for m in maps], targets[half], 64, box_loss="wiou", mean=MeanIoULoss(0.5),
                  all_reduce=lambda vector: told.append(vector) or vector)
    assert len(told) == 2  # one exchange for each
    means = [MeanIoULoss(0.5).double() for _ in range(3)]
    parts = [head_loss(head, [m[half] for m in maps], targets[half], 64, box_loss="wiou", mean=mean,
                       all_reduce=lambda _: sum(told)) for half, mean in zip(halves, means, strict=False)]
    whole = head_loss(head, maps, targets, 64, box_loss="wiou", mean=means[2])
    assert torch.equal(means[0].value, means[1].value) and means[0].value < 1
    torch.testing.assert_close(means[0].value, means[2].value)
    torch.testing.assert_close(parts[0]["box"] + parts[1]["box"], whole["box"])


def test_the_mean_of_a_batch_weighs_its_pairs():
    mean = MeanIoULoss(0.1)
    mean.update(loss_sums(torch.tensor([0.5, 0.0, 1.0]), torch.tensor([1.0, 0.0, 3.0])))
    assert mean.value.item() == pytest.approx(0.9 + 0.1 * 0.125)
