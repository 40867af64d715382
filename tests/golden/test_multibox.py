"""SSD's matching, mining and losses against those of ASSD-Pytorch and amdegroot/ssd.pytorch."""

import numpy as np
import pytest
import torch

from models.assign.prior_match import match_priors
from models.boxes.deltas import encode_deltas
from models.losses.multibox import VARIANCES, MultiboxConfig, hard_negatives, multibox_loss
from tests.models.loss_cases import pad_as_on_cuda
from utils.boxes import cxcywh_to_xyxy
from utils.structures import Targets, pack_targets

# fixture -> that of its priors, seed of its predictions, order of its coordinates, number of the first class
CASES = {"loss_multibox_assd": ("assd-resnet101-513", 300, [1, 0, 3, 2], 1),
         "loss_multibox_ssd": ("ssd300-vgg", 320, [0, 1, 2, 3], 0)}


@pytest.fixture(params=CASES)
def case(request, golden):
    """(meta, arrays, priors (P, 4) xyxy, offsets (2, P, 4), logits (2, P, C + 1), targets, order of the original)."""
    meta, arrays = golden(request.param)
    source, seed, order, first = CASES[request.param]
    priors = torch.from_numpy(golden(source)[1]["priors"])
    count, logits = len(priors), meta["hyp"]["num_classes"]
    offsets = (np.random.RandomState(seed).standard_normal((2, count, 4)) * 0.5).astype(np.float32)
    conf = np.random.RandomState(seed + 1).standard_normal((2, count, logits)).astype(np.float32)
    targets = pack_targets([Targets(rows[:, order], rows[:, 4].long() - first)
                            for rows in (torch.from_numpy(arrays[f"targets_{i}"]) for i in range(2))])
    return (meta, arrays, cxcywh_to_xyxy(priors[:, order]), torch.from_numpy(offsets), torch.from_numpy(conf), targets,
            order)


def test_matches_and_offsets(case):
    _, arrays, priors, _, _, targets, order = case
    match = match_priors(priors, targets)
    assert not match.excluded.any()
    for i in range(2):
        place = (match.box[i] >= 0).nonzero()[:, 0]
        box = match.box[i, place]
        np.testing.assert_array_equal(place, arrays[f"pos_idx_{i}"])
        np.testing.assert_array_equal(targets.labels[i, box] + 1, arrays[f"pos_label_{i}"])
        found = encode_deltas(targets.boxes[i, box], priors[place], VARIANCES)[:, order]
        np.testing.assert_allclose(found, arrays[f"pos_encoded_{i}"], rtol=1e-4, atol=1e-4)


def test_mined_background(case):
    meta, arrays, priors, _, conf, targets, _ = case
    match = match_priors(priors, targets)
    positive = match.box >= 0
    label = torch.where(positive, targets.labels.gather(1, match.box.clamp(min=0)) + 1, 0)
    cost = conf.logsumexp(-1) - conf.gather(-1, label[..., None])[..., 0]
    used = positive | hard_negatives(cost, positive, match.excluded, meta["hyp"]["neg_pos_ratio"])
    for i in range(2):
        np.testing.assert_array_equal(used[i].nonzero()[:, 0], arrays[f"conf_used_idx_{i}"])


@pytest.mark.parametrize("lists", ["of what is chosen", "of all, weighted, as on a GPU"])
def test_losses_and_gradients(case, lists, monkeypatch):
    meta, arrays, priors, offsets, conf, targets, order = case
    if "GPU" in lists:
        pad_as_on_cuda(monkeypatch)
    offsets.requires_grad_(), conf.requires_grad_()
    losses = multibox_loss(offsets[..., order], conf, priors, targets, MultiboxConfig({"loc": 1.0, "conf": 1.0}))
    wanted = meta["results"]
    for name, value in (("loc", wanted["loss_locs"]), ("conf", wanted["loss_conf"])):
        assert losses[name].item() / 2 == pytest.approx(value, rel=1e-5)  # ours are times the batch size
    (sum(losses.values()) / 2).backward()
    assert float(offsets.grad.norm()) == pytest.approx(wanted["grad_l2"]["locs"], rel=1e-4)
    assert float(conf.grad.norm()) == pytest.approx(wanted["grad_l2"]["conf"], rel=1e-4)
    found = torch.cat([offsets.grad[i, torch.from_numpy(arrays[f"pos_idx_{i}"]).long()] for i in range(2)])
    np.testing.assert_allclose(found, arrays["grad_locs_pos"], rtol=1e-3, atol=1e-6)
    if "grad_conf_used" in arrays:
        found = torch.cat([conf.grad[i, torch.from_numpy(arrays[f"conf_used_idx_{i}"]).long()] for i in range(2)])
        np.testing.assert_allclose(found, arrays["grad_conf_used"], rtol=1e-3, atol=1e-6)


def test_a_tie_is_settled_by_one_of_the_best_priors(golden):
    _, arrays = golden("loss_multibox_ssd")
    priors = cxcywh_to_xyxy(torch.from_numpy(golden("ssd300-vgg")[1]["priors"]))
    rows = torch.from_numpy(arrays["tie_targets"])
    found = match_priors(priors, pack_targets([Targets(rows[:, :4], rows[:, 4].long())])).box[0]
    for k in range(len(rows)):
        assert set((found == k).nonzero()[:, 0].tolist()) & set(arrays[f"tie_candidates_{k}"].tolist())
