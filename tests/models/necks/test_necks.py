"""The necks' cheaper order of computing against the plain form that papers draw."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.necks.assn import ASSN
from models.necks.forks import CBAM, CBAMP3
from models.necks.resample import conv3x3_enlarged, enlarge
from models.necks.ssfpn import SSFPN, FlatSSFPN
from utils.errors import UserError

WIDTHS, STRIDES = [16, 24, 32, 40], [8, 16, 32, 64]


def plain_assn(neck: ASSN, pyramid: list) -> torch.Tensor:
    """Enlarge, concatenate, mask, ELAN, add."""
    mask, entering = neck.gate(pyramid[0])
    size = pyramid[0].shape[2:]
    coarse = [enlarge(unit(x), f, size) for unit, x, f in zip(neck.reduce, pyramid[1:], neck.factors[1:], strict=True)]
    refined = neck.elan(torch.cat((entering, *coarse), 1) * mask)
    return torch.cat((pyramid[0], refined), 1) if neck.concat else pyramid[0] + refined


def plain_ssfpn(neck: SSFPN, pyramid: list) -> torch.Tensor:
    """Enlarge, stack, convolve in three dimensions, average over the scale axis."""
    size = pyramid[0].shape[2:]
    levels = [enlarge(unit(x), f, size) for unit, x, f in zip(neck.reduce.values(), pyramid, neck.factors, strict=True)]
    scale = neck.scale
    sequence = scale.act(scale.batch3d(scale.conv3d(torch.stack(levels, 2)))).mean(2)
    return torch.cat((sequence, pyramid[0]), 1) if neck.concat else sequence + pyramid[0]


def plain_flat(neck: FlatSSFPN, pyramid: list) -> torch.Tensor:
    """Enlarge, concatenate, convolve three planes of which two are padding, average over them."""
    size = pyramid[0].shape[2:]
    joined = torch.cat([enlarge(x, f, size) for x, f in zip(pyramid, neck.factors, strict=True)], 1)
    planes = F.pad(F.conv3d(joined.unsqueeze(2), neck.conv.weight, padding=(0, 1, 1)), (0, 0, 0, 0, 1, 1))
    flat = neck.act(neck.bn(planes)).mean(2)
    return torch.cat((flat, pyramid[0]), 1) if neck.merge == "concat" else flat + pyramid[0]


def pyramid(levels: int, generator: torch.Generator, finest: tuple[int, int] = (16, 24)) -> list:
    """Random maps whose finest has that many cells, by default those of a 128 x 192 image."""
    return [torch.randn(2, c, *(-(-side * STRIDES[0] // s) for side in finest), generator=generator)
            for c, s in zip(WIDTHS[:levels], STRIDES[:levels], strict=True)]


CASES = [(ASSN, plain_assn, {"gate": "spatial", "gate_bias": True}), (ASSN, plain_assn, {"gate": "channel_spatial"}),
         (ASSN, plain_assn, {"channels": 8, "merge": "concat"}), (SSFPN, plain_ssfpn, {}),
         (SSFPN, plain_ssfpn, {"act": "SiLU", "merge": "add"}), (SSFPN, plain_ssfpn, {"channels": 8}),
         (FlatSSFPN, plain_flat, {"merge": "add"}), (FlatSSFPN, plain_flat, {"channels": 8})]
# Cells of the finest level: of SSD513, SSD300, SSD321 and RetinaNet (800 px); maps of 5/3/2/1 and of one cell.
CEILED = [(65, 65), (38, 38), (41, 41), (100, 50), (5, 3), (1, 2)]


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("kind, plain, options", CASES)
def test_cheap_form_equals_plain_form(kind, plain, options, levels):
    compare_forms(kind, plain, options, levels, (16, 24))


@pytest.mark.parametrize("finest", CEILED)
@pytest.mark.parametrize("kind, plain, options", CASES[1::2] + CASES[6:7])
def test_forms_agree_where_levels_are_no_whole_multiples(kind, plain, options, finest):
    maps = compare_forms(kind, plain, options, 4, finest)
    assert any(c.shape[2:] != f.shape[2:] for c, f in zip([enlarge(x, 2) for x in maps[1:]], maps, strict=False))


def compare_forms(kind, plain, options, levels, finest):
    torch.manual_seed(0)
    # In float64: in float32 a value that rounds to the other side of LeakyReLU's kink changes the gradient visibly.
    neck = kind(WIDTHS[:levels], strides=STRIDES[:levels], **options).double()
    maps = [x.double() for x in pyramid(levels, torch.Generator().manual_seed(0), finest)]
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
    return maps


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_convolution_of_an_enlarged_map(factor, size):
    x, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(enlarge(x, factor), weight, padding=1)
    torch.testing.assert_close(conv3x3_enlarged(x, weight, factor), expected)
    whole = tuple(factor * side for side in size)
    assert torch.equal(conv3x3_enlarged(x, weight, factor, whole), conv3x3_enlarged(x, weight, factor))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 5, 8, 16]), st.integers(1, 40), st.integers(1, 40))
def test_convolution_of_an_enlarged_and_cropped_map(factor, height, width):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, -(-height // factor), -(-width // factor), generator=generator).double()
    weight = torch.randn(3, 2, 3, 3, generator=generator).double()
    cropped = enlarge(x, factor, (height, width))
    assert torch.equal(cropped, x[:, :, torch.arange(height) // factor][:, :, :, torch.arange(width) // factor])
    expected = F.conv2d(cropped, weight, padding=1)
    torch.testing.assert_close(conv3x3_enlarged(x, weight, factor, (height, width)), expected)


@pytest.mark.parametrize("kind", [ASSN, SSFPN, FlatSSFPN])
def test_levels_that_do_not_lie_over_the_finest_are_named(kind):
    """Pooling without padding rounds down: 38, 19, 9."""
    neck = kind([16, 16, 16], strides=[8, 16, 32])
    with pytest.raises(UserError, match=rf"{kind.__name__}: its input 2 has 9 x 10 cells; with a stride 4 times that "
                                        "of input 0, which has 38 x 38, it should have 10 x 10"):
        neck([torch.rand(1, 16, 38, 38), torch.rand(1, 16, 19, 19), torch.rand(1, 16, 9, 10)])


@pytest.mark.parametrize("kind", [CBAM, CBAMP3])
def test_gates_of_the_forks_crop_upsampled_maps(kind):
    gate = kind([16, 16], strides=[8, 8]).eval()
    fine, coarse = torch.rand(1, 16, 5, 7), torch.rand(1, 16, 6, 8)
    assert torch.equal(gate([fine, coarse]), gate([fine, coarse[:, :, :5, :7]]))


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
