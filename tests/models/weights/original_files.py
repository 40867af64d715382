"""Checkpoints as the original code bases write them: pickled modules whose classes lie under the original paths.

The classes exist only while a file is written; reading it must do without them.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PosixPath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.config import CFG_ROOT, read_yaml

V5 = {"model": "models.yolo.Model", "Detect": "models.yolo.Detect", "IDetect": "models.yolo.IDetect",
      "": "models.common"}
V8 = {"model": "ultralytics.nn.tasks.DetectionModel", "Detect": "ultralytics.nn.modules.head.Detect",
      "": "ultralytics.nn.modules.block"}


class Classes:
    """Makes module classes under foreign paths, once each."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths, self.made = paths, {}

    def __call__(self, kind: str) -> nn.Module:
        path = self.paths.get(kind, f"{self.paths['']}.{kind}")
        if path not in self.made:
            module, _, name = path.rpartition(".")
            self.made[path] = type(name, (nn.Module,), {"__module__": module, "__qualname__": name})
        return self.made[path]()

    @contextmanager
    def importable(self) -> Iterator[None]:
        """For as long as a file is written."""
        added = {}
        for path, cls in self.made.items():
            parts = path.split(".")[:-1]
            for i in range(1, len(parts) + 1):
                name = ".".join(parts[:i])
                if name not in sys.modules:
                    sys.modules[name] = added[name] = ModuleType(name)
            setattr(sys.modules[".".join(parts)], path.rpartition(".")[2], cls)
        try:
            yield
        finally:
            for name in added:
                del sys.modules[name]


def original(state: Mapping[str, Tensor], yaml: dict[str, Any], paths: Mapping[str, str], *, eps: float = 1e-3,
             act: nn.Module | None = None, **attributes: Any) -> tuple[nn.Module, Classes]:
    """A module tree with the names and values of `state`, its rows of the classes that `yaml` names."""
    classes = Classes(paths)
    rows = [row[2] for row in [*yaml["backbone"], *yaml["head"]]]
    model = classes("model")
    for key, value in value_order(state, len(rows)):
        *parents, name = key.split(".")
        owner = model
        for depth, part in enumerate(parents):
            if part not in owner._modules:
                prefix = ".".join(parents[:depth + 1]) + "."
                owner.add_module(part, _module(prefix, parents[:depth + 1], state, classes, rows, eps, act))
            owner = owner._modules[part]
        if name in ("anchors", "anchor_grid", "running_mean", "running_var", "num_batches_tracked"):
            owner.register_buffer(name, value)
        elif name:
            owner._parameters[name] = nn.Parameter(value, requires_grad=value.is_floating_point())
    for word, given in {"yaml": yaml, **attributes}.items():
        setattr(model, word, given)
    return model, classes


def value_order(state: Mapping[str, Tensor], rows: int) -> Iterator[tuple[str, Any]]:
    """The entries, with an empty one (`model.N.`) for each row that has no tensors."""
    done = -1
    for key, value in state.items():
        row = int(key.split(".")[1])
        yield from ((f"model.{i}.", None) for i in range(done + 1, row))
        done = max(done, row)
        yield key, value
    yield from ((f"model.{i}.", None) for i in range(done + 1, rows))


def _module(prefix: str, parts: list[str], state: Mapping[str, Tensor], classes: Classes, rows: list[str], eps: float,
            act: nn.Module | None) -> nn.Module:
    own = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    if parts == ["model"]:
        return nn.Sequential()
    if "running_mean" in own:
        norm = nn.BatchNorm2d(1, eps=eps, momentum=0.03)
        norm._parameters.clear()
        norm._buffers.clear()
        return norm
    if "weight" in own:
        plain = nn.Conv2d(1, 1, 1)
        plain._parameters.clear()
        return plain
    if len(parts) == 2 and rows[int(parts[1])].startswith("nn."):
        return nn.Upsample(None, 2, "nearest")
    unit = any(key.startswith("conv.") for key in own) and any(key.startswith("bn.") for key in own)
    module = classes("Conv" if unit else rows[int(parts[1])] if len(parts) == 2 else "Part")
    if unit or any(key.startswith("rbr_") for key in own):
        module.act = act or nn.SiLU(inplace=True)
    return module


def write(path: Path, model: nn.Module, classes: Classes, *, legacy: bool = False) -> Path:
    """A checkpoint in the middle of a training: optimiser, numpy numbers and paths beside the model."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(3))], 0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    content = {"epoch": 7, "best_fitness": np.array([0.51])[0], "training_results": "text", "model": model, "ema": None,
               "updates": 12, "optimizer": optimizer.state_dict(), "wandb_id": None, "date": "2022-07-01",
               "opt": {"save_dir": PosixPath("runs") / "exp", "imgsz": 320, "seen": {1, 2}},
               "shape": torch.Size([1, 2]), "device": torch.device("cpu"), "fitness": [np.float32(0.5), np.int64(3)]}
    with classes.importable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old container keeps the source of classes, and these have none
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def numbered(name: str, nc: int, **keys: Any) -> dict[str, Any]:
    """One of our model files that has no compound rows, as its authors write it: rows refer to each other by number."""
    content = read_yaml(CFG_ROOT / "models" / f"{name}.yaml")
    rows = [*content["backbone"], *content["head"]]
    places = {row[4]: i for i, row in enumerate(rows) if len(row) > 4}
    plain = [[[places.get(s, s) for s in row[0]] if isinstance(row[0], list) else places.get(row[0], row[0]), *row[1:4]]
             for row in rows]
    words = {word: content[word] for word in ("scales", "anchors") if word in content}
    cut = len(content["backbone"])
    return {**words, "nc": nc, "backbone": plain[:cut], "head": plain[cut:], "ch": 3, **keys}
