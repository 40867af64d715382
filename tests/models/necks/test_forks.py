"""Rows of the forks against the original modules, and the other layers of files from elsewhere: what they compute, how
they grow or shrink a map, what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from models import build_model
from models.graph import relative_stride
from models.layers import extras, rearrange
from models.layers.pooling import SPPCSPC
from models.necks.forks import CBAM, CBAMP3, Conv3D, ConvP3, SizedConv3D, Unsqueeze
from tests.golden_rule import filled_state_dict
from utils.errors import UserError

CASES = ["cbam7_0", "cbam7_1", "cbam8_0", "cbam8_1", "conv3d7_0", "conv3d7_1", "conv3d7_2", "conv3d4_0"]


def make(name: str, ctor: dict, inputs: list[dict]) -> nn.Module:
    if name.startswith("cbam"):
        widths, strides = [i["shape"][1] for i in inputs], [8] * len(inputs)
        if name.startswith("cbam7"):
            return CBAM(widths, ctor["gate_channels"], ctor["reduction_ratio"], strides=strides)
        return CBAMP3(widths, ctor["kernel_size"], strides=strides)
    return (SizedConv3D if name.startswith("conv3d7") else Conv3D)(inputs[0]["shape"][1], **ctor)


@pytest.mark.parametrize("name", CASES)
def test_module_is_the_originals(golden, name):
    meta, arrays = golden("units_assn_ss")
    case = next(c for c in meta["cases"] if c["id"] == name)
    layer = make(name, case["ctor"], case["inputs"])
    layer.load_state_dict(filled_state_dict({**meta, **case}))  # under the original names
    maps = [torch.from_numpy(np.random.RandomState(i["seed"]).standard_normal(i["shape"]).astype(np.float32))
            for i in case["inputs"]]
    inputs = maps if name.startswith("cbam") else maps[0]
    with torch.no_grad():
        for mode in ("eval", "train"):
            wanted = torch.from_numpy(arrays[f"{name}_{mode}"])
            torch.testing.assert_close(layer.train(mode == "train")(inputs), wanted, rtol=1e-4, atol=1e-4)
            assert wanted.shape[1] == layer.out_channels


@torch.no_grad()
@pytest.mark.parametrize("layer", [Conv3D(8, 8, 8), SizedConv3D(8, 8, 16, 1)])
def test_fusing_conv3d(layer):
    stack = torch.rand(1, 8, 3, 4, 5)
    layer.batch3d.running_mean.uniform_()
    before = layer.eval()(stack)
    layer.fuse()
    layer.fuse()
    assert isinstance(layer.batch3d, nn.Identity)
    torch.testing.assert_close(layer(stack), before)


@pytest.mark.parametrize("sizes", [[2, 0.5, 3, 1], [0.5, 2, 3, 1], [2, 0.5, 3]])
def test_width_of_convp3_follows_another_row(sizes):
    layer = ConvP3([24], *sizes, rows=[8, 8, 32, 24])
    assert tuple(layer.conv.weight.shape) == (16, 24, 3, 3)
    assert layer([torch.rand(1, 24, 4, 4)]).shape == (1, 16, 4, 4)


def test_width_of_convp3_follows_its_second_input():
    layer = ConvP3([24, 32], 0.5, 3, 1)
    assert layer([torch.rand(1, 24, 4, 4), torch.rand(1, 32, 8, 8)]).shape == (1, 16, 4, 4)


@pytest.mark.parametrize("make, message", [
    (lambda: ConvP3([24], 9, 1, rows=[8, 8, 32]), "reads the channels of row 9, which is none from 2 to 2"),
    (lambda: ConvP3([24], 1, 0.5, 3, rows=[8, 8, 32]), "reads the channels of row 1, which is none"),
    (lambda: ConvP3([24], 3, 2, 1, rows=[8, 8, 32, 8]), "with a ratio above 0 and up to 1, not"),
    (lambda: ConvP3([24], 1), r"takes \[row, ratio, k, s\] and one map"),
    (lambda: Conv3D(128, 256, 256), "is written for 256 channels and reads 128"),
    (lambda: SizedConv3D(16, 16, 16, 2), "kernel 2 is not odd"),
    (lambda: Unsqueeze(8, 1), "dimension 2, not 1"),
    (lambda: CBAM([16], strides=[8]), "two or more maps"),
    (lambda: CBAM([16, 16], strides=[8, 16]), "strides 8 and 16"),
    (lambda: CBAMP3([16, 16], 64, 5, strides=[8, 8]), "kernel 5 is not 3 or 7"),
    (lambda: extras.GhostBottleneck(16, 32), "cannot add its input of 16 channels to 32"),
    (lambda: rearrange.Expand(6), r"6 channels are no multiple of 2\^2"),
    (lambda: rearrange.Foldcut(5), "5 channels cannot be halved"),
    (lambda: rearrange.Chuncat([4, 3]), "3 channels cannot be halved"),
    (lambda: rearrange.ConvTranspose2d(4, 4, 3, 2), "must be the stride 2")])
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_conv3d_on_a_map_that_is_no_stack_is_told():
    with pytest.raises(ValueError, match="made by Unsqueeze and Concat"):
        Conv3D(8, 8, 8)(torch.rand(1, 8, 4, 4))


LAYERS = [(extras.Res, 16, 16), (extras.ResX, 32, 64, True, 32, 1.0), (extras.ResCSPA, 16, 16),
          (extras.ResCSPB, 16, 8), (extras.ResCSPC, 16, 16), (extras.ResXCSPA, 16, 64), (extras.ResXCSPB, 16, 32),
          (extras.ResXCSPC, 16, 64), (extras.Stem, 3, 16), (extras.GhostConv, 8, 16, 3, 2),
          (extras.GhostBottleneck, 16, 16), (extras.GhostBottleneck, 16, 24, 3, 2), (extras.C3Ghost, 16, 16),
          (extras.CrossConv, 8, 8, 3, 2), (extras.CrossConv, 8, 8, 3, 1, 1, 1.0, True), (extras.C3x, 16, 16),
          (extras.C3SPP, 16, 16), (extras.TransformerBlock, 8, 16, 4, 2), (extras.C3TR, 16, 16), (extras.C1, 8, 16),
          (extras.SPPFCSPC, 16, 16), (extras.RobustConv, 8, 16, 7, 2), (extras.RobustConv2, 8, 16),
          (rearrange.Contract, 8), (rearrange.Contract, 4, 4), (rearrange.Expand, 16), (rearrange.Foldcut, 8),
          (rearrange.ConvTranspose2d, 8, 16, 2, 2), (rearrange.ConvTranspose2d, 8, 16, 4, 2, 1),
          (rearrange.ConvTranspose2d, 8, 16, 3, 2, 1, 1), (rearrange.DWConvTranspose2d, 8, 16, 2, 2)]


@torch.no_grad()
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case[0].__name__)
def test_shape_is_the_declared_one(case):
    kind, c1, *args = case
    layer = kind(c1, *args).eval()
    step = relative_stride(layer)
    assert layer(torch.rand(2, c1, 8, 16)).shape == (2, layer.out_channels, 8 / step, 16 / step)


def test_repeats_make_longer_blocks():
    for kind in (extras.ResCSPA, extras.ResCSPB, extras.ResXCSPC, extras.C3Ghost, extras.C3x, extras.C1):
        assert len(kind(64, 64, n=3).m) == 3
    assert len(extras.C3TR(64, 64, n=3).m.tr) == 3


@torch.no_grad()
def test_rearrangements_lose_nothing():
    x = torch.rand(2, 12, 6, 8)
    assert torch.equal(rearrange.Expand(12 * 4)(rearrange.Contract(12)(x)), x)
    assert torch.equal(rearrange.Contract(12)(x)[:, :12], x[:, :, ::2, ::2])  # the first group: even rows and columns
    assert torch.equal(rearrange.Foldcut(12)(x), x[:, :6] + x[:, 6:])
    y = torch.rand(2, 4, 6, 8)
    assert torch.equal(rearrange.Chuncat([12, 4])([x, y]), torch.cat((x[:, :6], y[:, :2], x[:, 6:], y[:, 2:]), 1))


@torch.no_grad()
def test_serial_pooling_is_the_parallel_one():
    serial, parallel = extras.SPPFCSPC(8, 8).eval(), SPPCSPC(8, 8).eval()
    parallel.load_state_dict(serial.state_dict())
    x = torch.rand(1, 8, 16, 16)
    assert torch.equal(serial(x), parallel(x))


def test_rows_of_the_forks_scale_with_the_model():
    """ConvP3 follows the real width of the finest level, and Conv3D's written one is checked against it."""
    backbone = [[-1, 1, "Conv", [32, 3, 4]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 1]],
                [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "ConvP3", [2, 0.5, 3, 1]]]
    head = [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[2, -1], 1, "CBAMP3", [7]], [[-1], 1, "Detect", ["nc"]]]
    model = build_model({"nc": 2, "width_multiple": 0.5, "backbone": backbone, "head": head})
    assert [node.channels for node in model.model.nodes] == [16, 16, 32, 64, 16, 16, 48, 0]
    assert model.strides == [8]
    head = [[2, 1, "Unsqueeze", [2]], [[-1, -1], 1, "Concat", [2]], [-1, 1, "Conv3D", [64, 64]],
            [[-1], 1, "Detect", ["nc"]]]
    with pytest.raises(UserError, match=r"row 7 \(Conv3D\): is written for 64 channels and reads 32"):
        build_model({"nc": 2, "width_multiple": 0.5, "backbone": backbone, "head": head})
