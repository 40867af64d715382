"""FPN rows against torchvision's pyramid, with its weights by order, on maps that halve and that do not."""

import pytest
import torch
from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from models.layers.fpn import FPNConv, TopDown

WIDTHS = [8, 16, 24]


@pytest.mark.parametrize("first", [(16, 24), (25, 13), (38, 19)])
@torch.no_grad()
def test_pyramid_is_that_of_torchvision(first):
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(WIDTHS, 12, LastLevelP6P7(24, 12))
    laterals = [FPNConv(c, 12) for c in WIDTHS]
    outputs = [FPNConv(12, 12, 3) for _ in WIDTHS]
    p6, p7 = FPNConv(24, 12, 3, 2), FPNConv(12, 12, 3, 2, True)
    nn.ModuleList([*laterals, *outputs, p6, p7]).load_state_dict(
        dict(zip(nn.ModuleList([*laterals, *outputs, p6, p7]).state_dict(), theirs.state_dict().values(), strict=True)))
    sizes = [tuple(-(-side // 2**i) for side in first) for i in range(3)]
    c3, c4, c5 = (torch.randn(2, c, *size) for c, size in zip(WIDTHS, sizes, strict=True))
    m5 = laterals[2](c5)
    m4 = TopDown([12, 12], strides=[16, 32])([laterals[1](c4), m5])
    m3 = TopDown([12, 12], strides=[8, 16])([laterals[0](c3), m4])
    found = [conv(m) for conv, m in zip(outputs, (m3, m4, m5), strict=True)]
    found += [p6(c5), p7(p6(c5))]
    for ours, wanted in zip(found, theirs({"3": c3, "4": c4, "5": c5}).values(), strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("make, message", [
    (lambda: TopDown([8, 16], strides=[8, 16]), "not maps of 8 and 16"),
    (lambda: TopDown([8, 8, 8], strides=[8, 16, 32]), "not maps of 8 and 8 and 8"),
    (lambda: TopDown([8, 8], strides=[16, 8]), "strides 16 and 8; the first must be the finer"),
    (lambda: FPNConv(8, 8, 2), "kernel 2 is not odd")])
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
