"""A detector from a checkpoint file: one of this project, or of another code base (`models.weights`)."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.builder import build_graph
from models.catalogue import resolve
from models.detector import Detector, check_forward
from models.weights.convert_checkpoint import described_by, import_original
from utils.checkpoint import is_ours, read_weights
from utils.errors import UserError, printable


def load_model(path: str | Path, device: torch.device | str = "cpu", *,
               cfg: str | Path | dict[str, Any] | None = None) -> Detector:
    """A detector from a checkpoint, in evaluation mode: one of ours, or a `.pt` of YOLOv3, v4, v5, YOLOR, v7, v8,
    their forks, SSD, ASSD, Salience DETR or torchvision (docs/originals.md), of which nothing is executed.

    cfg: the model that a bare state dict holds, where it fits none that we know. Raises `UserError` for a file that is
    truncated, calls what no checkpoint needs, or does not fit the model that it describes.
    """
    if not is_ours(path):
        return _checked(import_original(path, cfg)[0], path).to(device).eval()
    if cfg is not None:
        raise UserError(f"{path}: a checkpoint of this project says itself which model it holds; leave cfg out",
                        code="flag-without-effect")
    config, names, state = read_weights(path)
    with described_by(path):
        config = resolve(config, names=names)
        _check_shapes(config, state, path)
        model = Detector(config)
        check_forward(model)
    model.load_state_dict(state)
    return _checked(model, path).float().to(device).eval()


class _Unfilled(TorchFunctionMode):
    """Within it parameters are not filled with random numbers, and counts lie on the CPU: on the meta device, where
    there is nothing to fill, PyTorch does both in Python, for which it imports torch._dynamo, 2 s of CPU time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__.endswith(("normal_", "uniform_")):  # of a tensor, or of torch.nn.init
            return args[0] if args else kwargs["tensor"]
        return func(*args, **{**kwargs, "device": "cpu"} if func is torch.arange else kwargs)


def _check_shapes(config: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> None:
    """Compare the model that a checkpoint describes with its tensors before memory is taken for it."""
    with torch.device("meta"), _Unfilled():
        ours = {f"model.{key}": value.shape for key, value in build_graph(config).state_dict().items()}
    wrong = next((key for key in (*ours, *state) if key not in state or key not in ours or
                  state[key].shape != ours[key]), None)
    if wrong is not None:
        held = f"{list(state[wrong].shape)} in the file" if wrong in state else "not in the file"
        wanted = f"{list(ours[wrong])} in the model" if wrong in ours else "not in the model"
        raise UserError(f"{path}: weights do not fit the model that it describes: {printable(wrong)[:80]} is {held}, "
                        f"{wanted}", code="weights-do-not-fit")


def _checked(model: Detector, path: str | Path) -> Detector:
    """The model as it was read: class names made printable; a warning for weights that are not finite."""
    model.names = model.config["names"] = [printable(name) for name in model.names]
    state = model.state_dict()
    wrong = [key for key, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if wrong:
        print(f"warning: {path}: {len(wrong)} of {len(state)} tensors hold values that are not finite (NaN or "
              f"infinite): {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}; what this model finds means "
              "nothing, take another checkpoint", file=sys.stderr)
    return model
