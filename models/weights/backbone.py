"""Weights of an image classifier in the backbone of a detector: `--backbone FILE`.

The file is a state dict under torchvision's names, of ResNet-18 to -152 or VGG-16, or amdegroot/ssd.pytorch's reduced
VGG-16, whose names are numbers alone. Rows called `stem` and `layer1` to `layer4`, and rows of `VGG16`, take them by
name; classes and fully connected layers that a detector does not have are left.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.detector import Detector
from models.weights.originals import read_original
from models.weights.transfer import COUNTER, TransferReport
from utils.checkpoint import is_ours
from utils.errors import UserError
from utils.frame import Pixels

STAGES = tuple(f"layer{i}" for i in range(1, 5))
# Blocks of each stage, and convolutions of a block.
DEPTHS = {((2, 2, 2, 2), 2): 18, ((3, 4, 6, 3), 2): 34, ((3, 4, 6, 3), 3): 50, ((3, 4, 23, 3), 3): 101,
          ((3, 8, 36, 3), 3): 152}
# What the weights were trained with.
CLASSIFIER_PIXELS = Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
REDUCED_PIXELS = Pixels(scale=255.0, mean=(123.0, 117.0, 104.0))
# Convolutions 31 and 33 of reduced VGG-16 are layers 0 and 3 of the classifier: every fourth output, and of the 7 x 7
# weights of the first every third (Liu et al. 2016, section 3.1: fc6 and fc7 "with subsampled parameters").
FC6, FC7 = "classifier.0", "classifier.3"
STATISTICS = "a counter, which constant statistics do not need"
CLASSES = "the classifier's own layer, which a detector does not have"


def load_backbone(model: Detector, path: Path | str) -> TransferReport:
    """Carry a classifier's weights into the backbone of `model`, in place.

    Raises `UserError` that names the file where it holds no such weights, the model has no rows for them, or the two
    are of different depth or width; nothing is then written.
    """
    if is_ours(path):
        raise UserError(f"--backbone {path}: is a detector of this project; give it to --weights", "bad-value")
    state = _classifier(read_original(path).state)
    rows = backbone_rows(model, vgg="features.0.weight" in state)
    if not rows:
        raise UserError(f"--backbone {path}: {_source(model)} has no rows for {_kind(state) or 'it'}, which are called "
                        "stem and layer1 to layer4 (ResNet) or made of VGG16; retinanet-r50 and ssd300 have",
                        "no-such-rows")
    report = TransferReport()
    ours = model.state_dict()
    for their, value in state.items():
        own = rows.get(their)
        if own is None:
            report.left[their] = STATISTICS if their.endswith(COUNTER) else CLASSES
        elif ours[own].shape != value.shape:
            raise UserError(f"--backbone {path}: {_misfit(model, state, their, value, ours[own])}",
                            "weights-do-not-fit")
        else:
            report.transferred.append((their, own))
    missing = [their for their in rows if their not in state and not _may_lack(their)]
    if missing or not report.transferred:
        what = _misfit(model, state) if _kind(state) else "holds none of the names of a ResNet or VGG-16"
        raise UserError(f"--backbone {path}: {what}; it lacks {', '.join(missing[:3])}", "weights-do-not-fit")
    report.kept = {own: "not in the file" for their, own in rows.items() if their not in state}
    with torch.no_grad():
        for their, own in report.transferred:
            ours[own].copy_(state[their])
    return report


def pixels_note(model: Detector, report: TransferReport) -> str:
    """A sentence where the model reads other pixels than the weights in a report of `load_backbone` were trained with,
    else ''."""
    reduced = any(their.startswith("features.31.") for their, _ in report.transferred)
    wanted = REDUCED_PIXELS if reduced and not _subsampled(report) else CLASSIFIER_PIXELS
    if model.pixels == wanted:
        return ""
    return (f"note: {_source(model)} reads pixels {model.pixels.to_dict()}, these weights were trained with "
            f"{wanted.to_dict()}; a model file of your own with `base:` and `pixels:` would read those")


def backbone_rows(model: Detector, vgg: bool) -> dict[str, str]:
    """Tensors of a classifier that the rows of a model take, by torchvision's names -> their names in the model."""
    rows: dict[str, str] = {}
    for node, layer in zip(model.model.nodes, model.model, strict=True):
        if vgg:
            prefix = "features." if node.module == "VGG16" else None
        else:
            prefix = {"stem": "", **{stage: f"{stage}." for stage in STAGES}}.get(node.name or "")
        if prefix is not None:
            rows |= {prefix + name: f"model.{node.index}.{name}" for name in layer.state_dict()}
    return rows


def _classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under torchvision's names for a ResNet or VGG-16, fc6 and fc7 of the latter as convolutions."""
    if all(re.fullmatch(r"\d{1,2}\.(weight|bias)", key) for key in state):
        return {f"features.{key}": value for key, value in state.items()}
    state = dict(state)
    fc6, fc7 = state.get(f"{FC6}.weight"), state.get(f"{FC7}.weight")
    if fc6 is not None and fc7 is not None and fc6.shape == (4096, 25088) and fc7.shape == (4096, 4096):
        state["features.31.weight"] = state.pop(f"{FC6}.weight").view(4096, 512, 7, 7)[::4, :, ::3, ::3]
        state["features.33.weight"] = state.pop(f"{FC7}.weight")[::4, ::4, None, None]
        for layer, index in ((FC6, 31), (FC7, 33)):
            state[f"features.{index}.bias"] = state.pop(f"{layer}.bias")[::4]
    return state


def _subsampled(report: TransferReport) -> bool:
    """Whether fc6 and fc7 came from a classifier, whose last layer is then left."""
    return any(their.startswith("classifier.") for their in report.left)


def _may_lack(name: str) -> bool:
    """Counters, which old files lack, and fc6 and fc7, which files of VGG's convolutions alone lack."""
    return name.endswith(COUNTER) or name.startswith(("features.31.", "features.33."))


def _kind(names: Mapping[str, object]) -> str:
    """What a classifier's names are of: 'a ResNet-50'; '' where they are of nothing that we know."""
    if "features.0.weight" in names:
        return "a VGG-16 with batch norm" if "features.1.running_mean" in names else "a VGG-16"
    blocks = tuple(len({name.split(".")[1] for name in names if name.startswith(f"{stage}.")}) for stage in STAGES)
    if not blocks[0]:
        return ""
    depth = DEPTHS.get((blocks, 3 if "layer1.0.conv3.weight" in names else 2))
    return f"a ResNet-{depth}" if depth else f"a ResNet of {', '.join(map(str, blocks))} blocks"


def _misfit(model: Detector, state: Mapping[str, Tensor], their: str = "", value: Tensor | None = None,
            ours: Tensor | None = None) -> str:
    """Why the weights do not fit: another depth, or else the first tensor of another shape."""
    own, theirs = _kind(backbone_rows(model, "features.0.weight" in state)), _kind(state)
    if own != theirs or value is None:
        return f"holds {theirs}, and the backbone of {_source(model)} is {own}"
    return (f"{their} has the shape {list(value.shape)}, and {list(ours.shape)} in {_source(model)}, whose backbone is "
            "of another width")


def _source(model: Detector) -> str:
    return str(model.config["source"])
