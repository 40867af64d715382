"""RetinaNet's loss against its formula written out image by image, and torchvision's functions."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from models.boxes.deltas import encode_deltas
from models.boxes.pyramid_anchors import PyramidAnchors
from models.losses.focal import FocalLossConfig, retina_loss
from utils.structures import PackedTargets, Raw, Targets, pack_targets

CLASSES, SIZE = 3, (64, 96)
SPEC = PyramidAnchors((8, 16), octaves=2)
SHAPES = [(8, 12), (4, 6)]
ANCHORS = SPEC.boxes(SPEC.sizes(), SHAPES, SIZE).double()
CONFIG = FocalLossConfig({"cls": 1.5, "box": 0.7})


def maps(batch: int, dtype: torch.dtype = torch.float64) -> Raw:
    generator = torch.Generator().manual_seed(0)

    def level(width: int, shape: tuple[int, int]) -> torch.Tensor:
        x = torch.randn(batch, SPEC.per_cell * width, *shape, generator=generator, dtype=torch.float64).to(dtype)
        return x.requires_grad_()

    return Raw({"cls": tuple(level(CLASSES, s) for s in SHAPES), "box": tuple(level(4, s) for s in SHAPES)}, SIZE)


def targets() -> list[Targets]:
    crowded = torch.tensor([[10.0, 10, 52, 50], [0, 0, 60, 64]]), torch.tensor([1, 0]), torch.tensor([False, True])
    return [Targets(torch.tensor([[3.0, 5, 40, 30], [60, 20, 90, 60], [50, 2, 57, 13]]), torch.tensor([0, 2, 1])),
            Targets.empty(), Targets(*crowded)]


def flat(levels: tuple[torch.Tensor, ...], width: int) -> torch.Tensor:
    return torch.cat([m.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).reshape(len(m), -1, width) for m in levels], 1)


def plain(raw: Raw, images: list[Targets], config: FocalLossConfig) -> dict[str, torch.Tensor]:
    logits, offsets = flat(raw.maps["cls"], CLASSES), flat(raw.maps["box"], 4)
    cls = box = positives = 0.0
    for b, image in enumerate(images):
        truth, labels = image.boxes[~image.ignore].double(), image.labels[~image.ignore]
        learned = torch.ones(len(ANCHORS), dtype=torch.bool)
        wanted = torch.zeros(len(ANCHORS), CLASSES, dtype=torch.float64)
        for region in image.boxes[image.ignore].double():
            shared = torch.minimum(ANCHORS[:, 2:], region[2:]) - torch.maximum(ANCHORS[:, :2], region[:2])
            learned &= shared.clamp(min=0).prod(1) <= 0.5 * (ANCHORS[:, 2:] - ANCHORS[:, :2]).prod(1)
        if len(truth):
            iou = box_iou(truth, ANCHORS)
            value, row = iou.max(0)
            positive = (value >= config.positive) | (iou == iou.amax(1, keepdim=True)).any(0)
            learned = (learned & (value < config.negative)) | positive
            wanted[positive, labels[row[positive]]] = 1
            distance = F.smooth_l1_loss(offsets[b, positive], encode_deltas(truth[row], ANCHORS)[positive],
                                        beta=config.beta, reduction="sum")
            box, positives = box + distance, positives + positive.sum()
        focal = sigmoid_focal_loss(logits[b], wanted, config.alpha, config.gamma)
        cls = cls + focal[learned].sum()
    factor = len(images) / max(positives, 1)
    return {"cls": cls * config.gains["cls"] * factor, "box": box * config.gains["box"] * factor}


@pytest.mark.parametrize("config", [CONFIG, FocalLossConfig({"cls": 1.0, "box": 1.0}, 0.6, 0.3, 0.4, 1.5, 0.0)])
def test_loss_and_gradient_are_those_of_the_formula(config):
    raw = maps(3)
    wanted = plain(raw, targets(), config)
    leaves = [*raw.maps["cls"], *raw.maps["box"]]
    expected = torch.autograd.grad(sum(wanted.values()), leaves)
    found = retina_loss(raw, ANCHORS, pack_targets(targets()), config)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(torch.autograd.grad(sum(found.values()), leaves), expected)


@pytest.mark.parametrize("images", [[Targets.empty()] * 2, []])
def test_no_object_at_all_leaves_the_background(images):
    """In one image crowds alone."""
    crowd = Targets(torch.tensor([[0.0, 0, 96, 64]]), torch.tensor([0]), torch.tensor([True]))
    images = images or [Targets.empty(), crowd]
    raw = maps(2)
    found, wanted = retina_loss(raw, ANCHORS, pack_targets(images), CONFIG), plain(raw, images, CONFIG)
    torch.testing.assert_close(found["cls"], wanted["cls"])
    assert found["box"] == 0
    grads = torch.autograd.grad(sum(found.values()), [*raw.maps["cls"], *raw.maps["box"]])
    assert all(torch.isfinite(g).all() for g in grads)


def test_processes_share_one_loss():
    raw, images = maps(3), targets()
    whole = retina_loss(raw, ANCHORS, pack_targets(images), CONFIG)
    parts = [slice(0, 1), slice(1, 3)]
    amounts: list[torch.Tensor] = []
    shares = [Raw({k: tuple(m[part] for m in v) for k, v in raw.maps.items()}, SIZE) for part in parts]
    for share, part in zip(shares, parts, strict=True):  # first what each has to exchange
        retina_loss(share, ANCHORS, pack_targets(images[part]), CONFIG, lambda t: amounts.append(t) or t)
    total = sum(amounts)
    losses = [retina_loss(share, ANCHORS, pack_targets(images[part]), CONFIG, lambda _: total)
              for share, part in zip(shares, parts, strict=True)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(loss[name] for loss in losses), value)
    assert [t.shape for t in amounts] == [(2,), (2,)]


def test_low_precision_maps_are_learned_in_float32():
    raw = maps(3, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = retina_loss(raw, ANCHORS.float(), pack_targets(targets()), CONFIG)
    exact = Raw({k: tuple(m.double() for m in v) for k, v in raw.maps.items()}, SIZE)
    for name, value in retina_loss(exact, ANCHORS, pack_targets(targets()), CONFIG).items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-4)


def test_nothing_reads_a_value_back_from_the_device():
    """The meta device has shapes and no values: what runs there cannot stop a GPU to look at data."""
    raw = maps(3)
    meta = Raw({k: tuple(m.detach().to("meta").requires_grad_() for m in v) for k, v in raw.maps.items()}, SIZE)
    sum(retina_loss(meta, ANCHORS.to("meta"), pack_targets(targets()).to("meta"), CONFIG).values()).backward()
    assert all(m.grad.shape == m.shape for levels in meta.maps.values() for m in levels)


def test_order_and_padding_of_boxes_do_not_matter():
    packed = pack_targets(targets())
    order = torch.tensor([4, 2, 0, 3, 1])
    padded = PackedTargets(*(torch.cat((t, t.new_zeros(3, 2, *t.shape[2:])), 1)[:, order] for t in packed.tensors()))
    raw = maps(3)
    torch.testing.assert_close(retina_loss(raw, ANCHORS, padded, CONFIG), retina_loss(raw, ANCHORS, packed, CONFIG))


def test_thousands_of_boxes_are_one_more_image():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5000, 2, generator=generator) * torch.tensor([90.0, 58.0])
    many = Targets(torch.cat((corner, corner + 2 + 4 * torch.rand(5000, 2, generator=generator)), 1),
                   torch.randint(CLASSES, (5000,), generator=generator))
    raw = maps(1)
    found, wanted = retina_loss(raw, ANCHORS, pack_targets([many]), CONFIG), plain(raw, [many], CONFIG)
    # A box in reach of several equal anchors has its ties decided by rounding, in float32 here and float64 there.
    torch.testing.assert_close(found["cls"], wanted["cls"], rtol=1e-3, atol=0)
    torch.testing.assert_close(found["box"], wanted["box"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("options, message", [
    ({"negative": 0.6}, "negative <= positive"), ({"alpha": 1.5}, "alpha 1.5"), ({"gamma": -1.0}, "gamma -1")])
def test_bounds_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FocalLossConfig({"cls": 1.0, "box": 1.0}, **options)
