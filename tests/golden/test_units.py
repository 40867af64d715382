"""Single layers against the original modules: gates of both ASSN forks, scale convolution, RepConv, CSP blocks."""

import numpy as np
import pytest
import torch

from models.layers.blocks import BottleneckCSP, BottleneckCSP2
from models.layers.conv import RepConv, default_activation
from models.layers.pooling import SPPCSP
from models.necks.gates import ScaleGate
from models.necks.ssfpn import FlatSSFPN, ScaleConv
from tests.golden_rule import filled_state_dict

CASES = ["cbam7_0", "cbam7_1", "cbam8_0", "cbam8_1", "conv3d7_0", "conv3d7_2", "conv3d4_0", "repconv_0", "repconv_1",
         "repconv_2", "csp", "csp2", "sppcsp"]  # conv3d7_1, a 1x1x1 kernel, is in no published model


def gated(gate: ScaleGate, levels: list) -> torch.Tensor:
    """What the original gate modules return: every level, as it enters, times the mask, concatenated."""
    mask, entering = gate(levels[0])
    return torch.cat((entering, *levels[1:]), 1) * mask


def make(name: str, ctor: dict):
    """Our layer of a case, and how to run it on the case's inputs."""
    if name.startswith("cbam7"):
        gate = ScaleGate(ctor["gate_channels"], "spatial", bias=True)
        return gate, lambda maps: gated(gate, maps)
    if name.startswith("cbam8"):
        gate = ScaleGate(ctor["c1"], "channel_spatial", bias=False)
        return gate, lambda maps: gated(gate, maps)
    if name.startswith("conv3d"):
        layer = ScaleConv(ctor["in_c"], ctor["out_c"], "SiLU" if name.startswith("conv3d7") else "LeakyReLU(0.01)")
        return layer, lambda maps: layer(list(maps[0].unbind(2)), [1] * maps[0].shape[2])
    if name.startswith("repconv"):
        layer = RepConv(**ctor)
        return layer, lambda maps: layer(maps[0])
    with default_activation("Mish"):
        kind = {"csp": BottleneckCSP, "csp2": BottleneckCSP2, "sppcsp": SPPCSP}[name]
        layer = kind(**ctor)
    return layer, lambda maps: layer(maps[0])


@pytest.mark.parametrize("name", CASES)
def test_unit(golden, name):
    meta, arrays = golden("units_assn_ss")
    case = next(c for c in meta["cases"] if c["id"] == name)
    layer, run = make(name, case["ctor"])
    weights = filled_state_dict({**meta, **case}).values()
    for ours, theirs in zip(layer.state_dict().values(), weights, strict=True):
        assert ours.shape == theirs.shape
        ours.copy_(theirs)
    maps = [torch.from_numpy(np.random.RandomState(i["seed"]).standard_normal(i["shape"]).astype(np.float32))
            for i in case["inputs"]]
    with torch.no_grad():
        for mode in ("eval", "train"):
            layer.train(mode == "train")
            torch.testing.assert_close(run(maps), torch.from_numpy(arrays[f"{name}_{mode}"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", range(4))
def test_unofficial_ssfpn(golden, number):
    meta, arrays = golden("ssfpn_module")
    case = meta["cases"][number]
    widths, (height, width) = case["in_channels"], case["p3_hw"]
    layer = FlatSSFPN(widths, case["channel_out"] or sum(widths), "LeakyReLU(0.01)" if case["act"] else False,
                      merge="replace", norm=case["bn"], strides=[8, 16, 32])
    weights = filled_state_dict({**meta, **case})
    assert [(k, v.shape) for k, v in layer.state_dict().items()] == [(k, v.shape) for k, v in weights.items()]
    layer.load_state_dict(weights)
    maps = [torch.from_numpy(np.random.RandomState(400 + k).standard_normal(
        (2, c, height >> k, width >> k)).astype(np.float32)) for k, c in enumerate(widths)]
    with torch.no_grad():
        for mode in ("eval", "train"):
            wanted = torch.from_numpy(arrays[f"c{number}_out_{mode}"])
            torch.testing.assert_close(layer.train(mode == "train")(maps), wanted, rtol=1e-4, atol=1e-4)
    for statistic in ("running_mean", "running_var") if case["bn"] else ():
        wanted = torch.from_numpy(arrays[f"c{number}_after_bn_{statistic}"])
        torch.testing.assert_close(getattr(layer.bn, statistic), wanted, rtol=1e-3, atol=1e-5)
