"""The fill rule of the golden fixtures: weights and inputs that can be generated again from their names alone."""

import json
import zlib
from collections import OrderedDict
from math import prod, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parents[2] / "shared"


def load_golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The pair `<name>.json`, `<name>.npz` of a fixture."""
    folder = SHARED / "golden"
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), dict(arrays)


def fill_value(key: str, shape: list[int], gain: float, special: dict[str, list[str]]) -> Tensor:
    """The float32 value of one entry, from its original name and shape."""
    r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    last = key.rsplit(".", 1)[-1]
    if any(rule.startswith("ImplicitA") and key in keys for rule, keys in special.items()):
        value = 0.02 * r
    elif any(rule.startswith("ImplicitM") and key in keys for rule, keys in special.items()):
        value = 1 + 0.02 * r
    elif last == "running_var":
        value = 1 + 0.5 * np.abs(r)
    elif last == "running_mean" or last.endswith("bias"):
        value = 0.1 * r
    elif last.endswith("weight") and len(shape) == 1:
        value = 1 + 0.1 * r
    elif last.endswith("weight"):
        value = r * (gain * sqrt(2 / prod(shape[1:])))
    else:
        value = 0.1 * r
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def filled_state_dict(meta: dict, gain: float | None = None) -> "OrderedDict[str, Tensor]":
    """The original's state dict filled by the rule, in the original order; `kept` entries are left out."""
    gain = meta.get("gain", 1.0) if gain is None else gain
    kept, special = set(meta.get("kept", [])), meta.get("special", {})
    state: OrderedDict[str, Tensor] = OrderedDict()
    for key, shape, dtype in meta["state_dict"]:
        if key in kept:
            continue
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
        elif "float" in dtype:
            state[key] = fill_value(key, shape, gain, special)
    return state


def rule_input(shape: list[int], seed: int = 0) -> Tensor:
    """The input rule: uniform [0, 1) float32."""
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype(np.float32))
