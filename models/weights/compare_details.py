"""In which details the layers of a checkpoint differ from ours of the same rows (`models.details`)."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

from models.details import NORMS, detail_name
from models.layers.conv import activation
from models.weights.originals import Original
from utils.errors import UserError


def find_details(rows: nn.ModuleList, original: Original, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The details in which `rows` differ from the original; `pairs` are the names of tensors, theirs and ours."""
    theirs = _counterparts(pairs)
    modules: dict[str, list | str] = {}
    norms = {key: (module, original.norms[theirs[key]]) for key, module in rows.named_modules()
             if isinstance(module, NORMS) and theirs.get(key) in original.norms}
    usual = Counter(tuple(value) for module, value in norms.values() if isinstance(module, nn.BatchNorm2d))
    common = usual.most_common(1)[0][0] if usual else None
    plain = next(([m.eps, m.momentum] for m, _ in norms.values() if isinstance(m, nn.BatchNorm2d)), None)
    for key, (module, value) in norms.items():
        expected = list(common) if isinstance(module, nn.BatchNorm2d) else [module.eps, module.momentum]
        if value != expected:
            modules[detail_name(key, rows)] = value
    for key, module in rows.named_modules():
        text = original.activations.get(theirs.get(key, ""))
        if key.endswith(".act") and text and not _same(module, _activation(text, key)):
            modules[detail_name(key, rows)] = text
    details = {"batch_norm": list(common) if common and list(common) != plain else None, "modules": modules}
    return {word: value for word, value in details.items() if value}


def _activation(text: str, key: str) -> nn.Module:
    try:
        return activation(text)
    except ValueError as error:
        raise UserError(f"row {key.partition('.')[0]}: {error}", code="unknown-name") from None


def _same(a: nn.Module, b: nn.Module) -> bool:
    return type(a) is type(b) and all(getattr(a, word, None) == getattr(b, word, None)
                                      for word in ("negative_slope", "alpha"))


def _counterparts(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Our modules -> theirs, from the names of their tensors: upwards as long as the names agree; with `act` beside."""
    found: dict[str, str] = {}
    for their, our in pairs:
        a, b = their.split("."), our.removeprefix("model.").split(".")
        while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
            a, b = a[:-1], b[:-1]
            found.setdefault(".".join(b), ".".join(a))
            found.setdefault(".".join([*b, "act"]), ".".join([*a, "act"]))
    return found
