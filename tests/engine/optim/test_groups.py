"""Which parameters are trained, and which of them decay."""

import pytest
import torch
from torch import nn

from engine.optim.groups import freeze, parameter_groups
from utils.errors import UserError


def test_weights_of_layers_that_have_several_decay():
    model = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2, kdim=3, vdim=3, add_bias_kv=True),
                           nn.LSTM(2, 2), nn.LayerNorm(4)])
    kinds = {id(p): kind for kind, members in parameter_groups(model).items() for p in members}
    found = {name: kinds[id(p)] for name, p in model.named_parameters()}
    assert found["0.in_proj_weight"] == found["0.out_proj.weight"] == found["1.q_proj_weight"] == "decay"
    assert found["2.weight_ih_l0"] == "decay" and found["2.bias_hh_l0"] == "bias"
    assert found["0.in_proj_bias"] == found["1.bias_k"] == found["0.out_proj.bias"] == "bias"
    assert found["3.weight"] == "no_decay"


def test_rows_that_are_not_there_cannot_be_frozen():
    def model():
        return torch.nn.ModuleDict({"model": torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(3)))})

    assert len(freeze(model(), [2])) == 4 and len(freeze(model(), [0, 2])) == 4 and freeze(model(), [0]) == []
    for rows, told in (([9], "rows 0 to 2"), ([0, 7], "rows 0 to 2"), ([3], "no trainable parameter")):
        with pytest.raises(UserError, match=told) as error:
            freeze(model(), rows)
        assert error.value.code == "bad-value"
