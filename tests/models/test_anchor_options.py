"""Loss settings of anchor heads that evolved recipes change: anchor_t, cls_pw, obj_pw."""

import pytest
import torch
import torch.nn.functional as F

from models.losses.anchor_head import AnchorLossConfig, _bce, anchor_head_loss
from tests.models.loss_cases import anchor_raw
from utils.structures import Targets, pack_targets

GAINS = {"box": 0.05, "obj": 1.0, "cls": 0.5}
ANCHORS = torch.tensor([[[10.0, 10.0]]])


def losses(side=20.0, **options):
    torch.manual_seed(0)
    maps = [torch.randn(1, 1, 8, 8, 8)]
    targets = pack_targets([Targets(torch.tensor([[20.0, 20.0, 20 + side, 20 + side]]), torch.tensor([1]))])
    return anchor_head_loss(anchor_raw(maps, 64), ANCHORS, [8], targets, AnchorLossConfig(GAINS, **options))


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_weights_of_positives_are_torchs(weight, gamma):
    logits, target = torch.linspace(-30, 30, 50), torch.rand(50)
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=torch.tensor(weight))
    factor = _bce(logits, target, gamma, 1.0) / _bce(logits, target, 0.0, 1.0)
    torch.testing.assert_close(_bce(logits, target, gamma, weight), plain * factor)


def test_each_weight_reaches_its_own_term():
    base = losses()
    assert losses(cls_pw=1.0, obj_pw=1.0) == base
    for option, term in (("cls_pw", "cls"), ("obj_pw", "obj")):
        other = losses(**{option: 2.0})
        assert other[term] > base[term] and all(other[t] == base[t] for t in base if t != term)


def test_anchor_t_decides_who_learns():
    assert losses(side=35.0)["box"] > 0  # 3.5 times the anchor
    assert losses(side=35.0, anchor_t=3.4)["box"] == 0
    assert losses(side=45.0)["box"] == 0 < losses(side=45.0, anchor_t=4.6)["box"]
