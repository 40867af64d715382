"""SSD's loss against its definition, image by image; what it does without objects and with crowds."""

import pytest
import torch
import torch.nn.functional as F

from models.assign.prior_match import match_priors
from models.losses.multibox import MultiboxConfig, hard_negatives, multibox_loss
from tests.models.loss_cases import random_targets
from utils.structures import PackedTargets, Targets, pack_targets

CONFIG = MultiboxConfig({"loc": 1.0, "conf": 1.0})
SIZE, CLASSES, PRIORS = 64, 3, 200


def case(seed: int, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PackedTargets]:
    """Offsets, logits, priors and targets, crowds among them."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(PRIORS, 2, generator=generator) * SIZE * 0.7
    priors = torch.cat((low, low + 3 + torch.rand(PRIORS, 2, generator=generator) * SIZE * 0.4), 1)
    offsets = torch.randn(batch, PRIORS, 4, generator=generator).requires_grad_()
    logits = torch.randn(batch, PRIORS, CLASSES + 1, generator=generator).requires_grad_()
    images = random_targets(batch, 6, SIZE, CLASSES, seed, largest=0.9).unpack()
    images[0].ignore[-1:] = True
    return offsets, logits, priors, pack_targets(images)


def reference(offsets, logits, priors, targets, config) -> dict[str, torch.Tensor]:
    """Liu et al. 2016, eq. 1 to 3, one image and one prior after another."""
    match, loc, conf, count = match_priors(priors, targets, config.match_iou), 0.0, 0.0, 0
    for i in range(len(offsets)):
        mining = []
        for p in range(len(priors)):
            box = int(match.box[i, p])
            label = 0 if box < 0 else int(targets.labels[i, box]) + 1
            loss = F.cross_entropy(logits[i, p], torch.tensor(label))
            if box < 0:
                if not match.excluded[i, p]:
                    mining.append(loss)
                continue
            (x1, y1, x2, y2), (px1, py1, px2, py2) = targets.boxes[i, box], priors[p]
            truth = torch.stack(((x1 + x2 - px1 - px2) / 2 / (px2 - px1) / 0.1,
                                 (y1 + y2 - py1 - py2) / 2 / (py2 - py1) / 0.1,
                                 torch.log((x2 - x1) / (px2 - px1)) / 0.2, torch.log((y2 - y1) / (py2 - py1)) / 0.2))
            loc, conf, count = loc + F.smooth_l1_loss(offsets[i, p], truth, reduction="sum"), conf + loss, count + 1
        positives = int((match.box[i] >= 0).sum())
        limit = min(int(config.neg_pos * positives), len(priors) - 1)
        conf = conf + sum(sorted(mining, reverse=True)[:limit])
    return {"loc": loc / max(count, 1) * len(offsets), "conf": conf / max(count, 1) * len(offsets)}


@pytest.mark.parametrize("seed, neg_pos, match_iou", [(0, 3.0, 0.5), (1, 0.5, 0.3), (2, 100.0, 0.5), (3, 0.0, 0.6)])
def test_equals_the_definition(seed, neg_pos, match_iou):
    arguments, config = case(seed), MultiboxConfig({"loc": 1.0, "conf": 1.0}, match_iou, neg_pos)
    found, wanted = multibox_loss(*arguments, config), reference(*arguments, config)
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(sum(terms.values()), arguments[:2]) for terms in (found, wanted)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gains_weigh_the_terms():
    arguments = case(0)
    plain, weighed = (multibox_loss(*arguments, MultiboxConfig(gains))
                      for gains in ({"loc": 1.0, "conf": 1.0}, {"loc": 2.0, "conf": 0.5}))
    torch.testing.assert_close(weighed, {"loc": 2 * plain["loc"], "conf": 0.5 * plain["conf"]})


def test_images_without_objects_add_nothing():
    offsets, logits, priors, targets = case(0)
    alone = multibox_loss(offsets[:1], logits[:1], priors, targets[:1], CONFIG)
    beside = multibox_loss(offsets, logits, priors, pack_targets([targets.unpack()[0], *[Targets.empty()] * 3]), CONFIG)
    for name, term in alone.items():
        torch.testing.assert_close(beside[name], 4 * term)  # per positive, times the images
    nothing = multibox_loss(offsets, logits, priors, pack_targets([Targets.empty()] * 4), CONFIG)
    assert all(term.item() == 0 for term in nothing.values())
    for grad in torch.autograd.grad(sum(nothing.values()), (offsets, logits)):
        assert not grad.any()  # zeros, not absent


def test_crowds_are_not_mined():
    """Of an image that is a crowd but for one object, no background is left to learn."""
    offsets, logits, priors, _ = case(0, batch=1)
    boxes = torch.tensor([[0.0, 0, 80, 80], [10, 10, 30, 30]])
    crowd = Targets(boxes, torch.tensor([0, 1]), torch.tensor([True, False]))
    losses = multibox_loss(offsets, logits, priors, pack_targets([crowd]), CONFIG)
    (grad,) = torch.autograd.grad(losses["conf"], logits)
    positive = match_priors(priors, pack_targets([crowd])).box >= 0
    assert positive.any() and torch.equal(grad.any(-1), positive)


def test_background_is_limited_per_image():
    cost = torch.tensor([[5.0, 1, 4, 2, 3], [5, 1, 4, 2, 3], [0, 0, 0, 0, 0]])
    positive = torch.tensor([[True, False, False, False, False]] * 2 + [[False] * 5])
    excluded = torch.zeros_like(positive)
    excluded[1, 2] = True
    found = hard_negatives(cost, positive, excluded, 2.0)
    assert found.tolist() == [[False, False, True, False, True], [False, False, False, True, True], [False] * 5]
    every = hard_negatives(cost, positive, excluded, 100.0)
    assert every.sum(1).tolist() == [4, 3, 0]


@pytest.mark.parametrize("option, told", [({"match_iou": 0.0}, "IoU above 0"), ({"neg_pos": -1.0}, "below 0")])
def test_options_that_mean_nothing_are_told(option, told):
    with pytest.raises(ValueError, match=told):
        MultiboxConfig({"loc": 1.0, "conf": 1.0}, **option)
