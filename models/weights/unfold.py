"""Checkpoints of fused models: batch norms, branches and implicit constants that were folded away are put back as ones
that change nothing, so that such a model is an ordinary one again, which trains and saves like any other.
"""

import torch
from torch import Tensor, nn

from models.layers.conv import RepConv


def unfold(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with what `model` has and fusing took away, under the names of the model; others stay as they are."""
    state, ours = dict(state), model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, RepConv) and f"{name}.rbr_reparam.weight" in state:
            _rep_conv(state, name, module)
        elif (isinstance(getattr(module, "bn", None), nn.BatchNorm2d) and f"{name}.conv.bias" in state
              and f"{name}.conv.bias" not in ours and f"{name}.bn.weight" not in state):
            _norm(state, f"{name}.bn", module.bn, state.pop(f"{name}.conv.bias"))
    if any(key.endswith(".m.0.weight") for key in state) and not any(key.endswith(".implicit") for key in state):
        for key, value in ours.items():  # a head that lost its implicit constants
            if key.endswith(".implicit") and key not in state:
                state[key] = torch.full_like(value, 1.0 if ".im." in key else 0.0)
    return state


def _norm(state: dict[str, Tensor], name: str, norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """A batch norm that only adds `bias`."""
    ones = torch.ones_like(bias)
    state[f"{name}.weight"], state[f"{name}.bias"] = ones * (1 + norm.eps) ** 0.5, bias
    state[f"{name}.running_mean"], state[f"{name}.running_var"] = ones * 0, ones
    state[f"{name}.num_batches_tracked"] = torch.tensor(0)


def _rep_conv(state: dict[str, Tensor], name: str, module: RepConv) -> None:
    """The folded kernel as the 3x3 branch; the others give zero."""
    state[f"{name}.rbr_dense.0.weight"] = state.pop(f"{name}.rbr_reparam.weight")
    bias = state.pop(f"{name}.rbr_reparam.bias")
    _norm(state, f"{name}.rbr_dense.1", module.rbr_dense[1], bias)
    state[f"{name}.rbr_1x1.0.weight"] = torch.zeros_like(module.rbr_1x1[0].weight)
    _norm(state, f"{name}.rbr_1x1.1", module.rbr_1x1[1], torch.zeros_like(bias))
    if hasattr(module, "rbr_identity"):
        _norm(state, f"{name}.rbr_identity", module.rbr_identity, torch.zeros_like(bias))
        state[f"{name}.rbr_identity.weight"] = torch.zeros_like(bias)
