"""The necks' cheaper order of computing against the plain form that papers draw."""

import pytest
import torch
import torch.nn.functional as F

from models.necks.assn import ASSN
from models.necks.resample import conv3x3_enlarged, enlarge
from models.necks.ssfpn import SSFPN, FlatSSFPN

WIDTHS, STRIDES = [16, 24, 32, 40], [8, 16, 32, 64]


def plain_assn(neck: ASSN, pyramid: list) -> torch.Tensor:
    """Enlarge, concatenate, mask, ELAN, add."""
    mask, entering = neck.gate(pyramid[0])
    coarse = [enlarge(unit(x), f) for unit, x, f in zip(neck.reduce, pyramid[1:], neck.factors[1:], strict=True)]
    refined = neck.elan(torch.cat((entering, *coarse), 1) * mask)
    return torch.cat((pyramid[0], refined), 1) if neck.concat else pyramid[0] + refined


def plain_ssfpn(neck: SSFPN, pyramid: list) -> torch.Tensor:
    """Enlarge, stack, convolve in three dimensions, average over the scale axis."""
    levels = [enlarge(unit(x), f) for unit, x, f in zip(neck.reduce.values(), pyramid, neck.factors, strict=True)]
    scale = neck.scale
    sequence = scale.act(scale.batch3d(scale.conv3d(torch.stack(levels, 2)))).mean(2)
    return torch.cat((sequence, pyramid[0]), 1) if neck.concat else sequence + pyramid[0]


def pyramid(levels: int, generator: torch.Generator) -> list:
    """Random maps of a 128 x 192 image."""
    return [torch.randn(2, c, 128 // s, 192 // s, generator=generator)
            for c, s in zip(WIDTHS[:levels], STRIDES[:levels], strict=True)]


CASES = [(ASSN, plain_assn, {"gate": "spatial", "gate_bias": True}), (ASSN, plain_assn, {"gate": "channel_spatial"}),
         (ASSN, plain_assn, {"channels": 8, "merge": "concat"}), (SSFPN, plain_ssfpn, {}),
         (SSFPN, plain_ssfpn, {"act": "SiLU", "merge": "add"}), (SSFPN, plain_ssfpn, {"channels": 8})]


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("kind, plain, options", CASES)
def test_cheap_form_equals_plain_form(kind, plain, options, levels):
    torch.manual_seed(0)
    # In float64: in float32 a value that rounds to the other side of LeakyReLU's kink changes the gradient visibly.
    neck = kind(WIDTHS[:levels], strides=STRIDES[:levels], **options).double()
    maps = [x.double() for x in pyramid(levels, torch.Generator().manual_seed(0))]
    gradients = []
    for form in (neck, lambda p: plain(neck, p)):
        neck.zero_grad()
        neck.train()
        trained = form(maps)
        trained.square().mean().backward()
        gradients.append([p.grad.clone() for p in neck.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(neck(maps), plain(neck, maps), rtol=1e-4, atol=1e-4)
        neck.eval()
        expected = plain(neck, maps)
        assert expected.shape[1] == neck.out_channels
        torch.testing.assert_close(neck(maps), expected, rtol=1e-4, atol=1e-4)
        for module in neck.modules():
            if hasattr(module, "fuse"):
                module.fuse()
        torch.testing.assert_close(neck(maps), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_convolution_of_an_enlarged_map(factor, size):
    x, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(enlarge(x, factor), weight, padding=1)
    torch.testing.assert_close(conv3x3_enlarged(x, weight, factor), expected)


@pytest.mark.parametrize("kind", [ASSN, SSFPN])
def test_levels_must_run_from_the_finest(kind):
    with pytest.raises(ValueError, match="strides 16 and 8; the first must be the finest"):
        kind([16, 16], strides=[16, 8])


def test_channel_gate_shapes_only_the_mask_in_the_form_of_the_yolov7_fork():
    x = torch.randn(1, 16, 8, 8)
    both, spatial = ASSN([16, 16], gate="channel_spatial", strides=[8, 16]), ASSN([16, 16], gate="spatial",
                                                                                 strides=[8, 16])
    assert spatial.gate(x)[1] is x
    assert not torch.equal(both.gate(x)[1], x)


def test_listing_the_coarsest_unit_first_changes_the_order_of_the_state_alone():
    options = {"widths": WIDTHS[:3], "strides": STRIDES[:3]}
    fine, coarse = SSFPN(**options), SSFPN(**options, coarse_first=True)
    assert [k for k in coarse.state_dict() if k.endswith("conv.weight")] == ["reduce.2.conv.weight",
                                                                            "reduce.1.conv.weight"]
    coarse.load_state_dict(fine.state_dict())
    maps = pyramid(3, torch.Generator().manual_seed(0))
    assert torch.equal(fine.eval()(maps), coarse.eval()(maps))


@pytest.mark.parametrize("merge, width", [("replace", 16), ("add", 16), ("concat", 32)])
def test_unofficial_form_stands_on_the_finest_level(merge, width):
    neck = FlatSSFPN(WIDTHS[:3], merge=merge, strides=STRIDES[:3])
    maps = pyramid(3, torch.Generator().manual_seed(0))
    assert neck(maps).shape == (2, width, *maps[0].shape[2:])
    assert neck.out_channels == width
    with pytest.raises(ValueError, match="merge 'ad' is not one of"):
        FlatSSFPN(WIDTHS[:3], merge="ad", strides=STRIDES[:3])
