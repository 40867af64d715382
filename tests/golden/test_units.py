"""Single layers against the original modules: gates of both ASSN forks, scale convolution, RepConv, CSP blocks."""

import numpy as np
import pytest
import torch

from models.layers.blocks import BottleneckCSP, BottleneckCSP2
from models.layers.conv import RepConv, default_activation
from models.layers.pooling import SPPCSP
from models.necks.gates import ScaleGate
from models.necks.ssfpn import ScaleConv
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
