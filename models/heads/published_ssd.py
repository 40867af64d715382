"""Weights of SSD and ASSD as they were published: amdegroot/ssd.pytorch, torchvision's ssd300_vgg16, ASSD-Pytorch.

None of their files says which pixels, priors and classes it is for; the names of its tensors say whose file it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.class_lists import COCO, COCO_IDS, VOC

MEANS = [123.0, 117.0, 104.0]  # R, G, B of 0..255
TORCHVISION_MEANS = [0.48235 * 255, 0.45882 * 255, 0.40784 * 255]  # the same, as torchvision writes them
RAW_COCO = 91  # outputs of torchvision's heads: a background and the ids 1 to 90, of which ten name nothing

AMDEGROOT = {
    r"^vgg\.(\d|1\d|2[0-2])\.": r"conv4.\1.",
    r"^vgg\.(\d\d)\.": r"fc7.\1.",
    r"^L2Norm\.": "norm.",
    r"^extras\.(\d)\.": r"extra\1.conv.",
    r"^(loc|conf)\.(\d)\.": r"detect.\1.\2.",
}
TORCHVISION = {
    r"^backbone\.scale_weight$": "norm.weight",
    r"^backbone\.features\.(\d+)\.": r"conv4.\1.",
    **{rf"^backbone\.extra\.0\.{theirs}\.": f"fc7.{ours}."
       for theirs, ours in ((1, 24), (3, 26), (5, 28), (r"7\.1", 31), (r"7\.3", 33))},
    **{rf"^backbone\.extra\.{block}\.{2 * k}\.": f"extra{2 * block - 2 + k}.conv."
       for block in range(1, 6) for k in (0, 1)},
    r"^head\.classification_head\.module_list\.(\d)\.": r"detect.conf.\1.",
    r"^head\.regression_head\.module_list\.(\d)\.": r"detect.loc.\1.",
}
ASSD = {
    r"^(conv1|bn1)\.": r"stem.\1.",
    r"^(layer[1-4])\.": r"\1.",
    **{rf"^extra_layers\.{3 * k + part}\.": f"extra{k}.{name}." for k in range(8)
       for part, name in enumerate(("conv", "bn"))},
    r"^fusion_layers\.(\d)\.": r"fusion.layers.\1.",
    r"^fusion_(bn|conv)\.": r"fusion.\1.",
    **{rf"^att_layers\.(\d)\.conv{k}\.": rf"att\1.{name}." for k, name in enumerate(("query", "key", "value"), 1)},
    r"^conf_layers\.(\d)\.": r"detect.conf.\1.",
    r"^locs_layers\.(\d)\.": r"detect.loc.\1.",
}
RENAMES = {**AMDEGROOT, **TORCHVISION, **ASSD}


def adapt(state: Mapping[str, Tensor], classes: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict, and what it needs of the model file. classes: how many it has, without the background.

    Of the 91 outputs of torchvision's published weights the background and COCO's 80 classes are kept.
    """
    state, own = dict(state), {20: list(VOC), 80: list(COCO)}.get(classes or 0)
    names = {"names": own} if own else {}
    if any(key.startswith("locs_layers.") for key in state):  # read by OpenCV, and normalised in that order
        return state, {"pixels": {"scale": 1, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                                  "order": "bgr"}, "options": {"order": "yx"}, **names}
    if "backbone.scale_weight" not in state:
        return state, {"pixels": {"scale": 255, "mean": MEANS, "std": [1, 1, 1], "order": "rgb"}, **names}
    implied = {"pixels": {"scale": 255, "mean": TORCHVISION_MEANS, "std": [1, 1, 1], "order": "rgb"},
               "options": {"clip": "sides", "priors": "coco"}, **names}
    if classes == RAW_COCO - 1:
        implied["names"] = list(COCO)
        for key in state:
            if ".classification_head." in key:
                state[key] = keep_outputs(state[key], RAW_COCO, (0, *COCO_IDS))
    return state, implied


def keep_outputs(rows: Tensor, width: int, kept: Sequence[int]) -> Tensor:
    """Rows (n * width, ...) of a convolution, prior by prior -> those of some of the `width` outputs."""
    return rows.unflatten(0, (-1, width))[:, torch.tensor(kept)].flatten(0, 1)
