"""ASSN, the attentional scale-sequence neck (Park et al., smu-ivpl/ASSN): a gated fusion of all levels at the finest.

Legend: B images, C width, H, W pixels of the finest level, k levels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.blocks import ELANH
from models.layers.conv import Conv
from models.necks.gates import ScaleGate
from models.necks.resample import check_pyramid, enlarge
from models.registry import register


@register("ASSN", multi_input=True, neck="assn")
class ASSN(nn.Module):
    """Levels, finest first -> a new finest level of its width (twice that where `merge` is "concat").

    Coarser levels are reduced to C by 1x1 units and enlarged; gates read from the finest level weigh the concatenation;
    one ELAN block refines it; the finest level is added.

    channels: C, by default the width of the finest level. gate: "channel_spatial" (YOLOv8 fork, figure) or "spatial"
    (YOLOv7 fork). gate_bias: of the 7x7 convolution; the YOLOv7 fork has one. merge: "add" or "concat" with the finest.
    """

    def __init__(self, widths: list[int], channels: int | None = None, gate: str = "channel_spatial",
                 gate_bias: bool = False, merge: str = "add", *, strides: list[int]) -> None:
        super().__init__()
        if merge not in ("add", "concat"):
            raise ValueError(f"merge {merge!r} is not one of add, concat")
        self.factors = scale_factors(strides)
        finest, c = widths[0], channels or widths[0]
        self.reduce = nn.ModuleList(Conv(width, c) for width in widths[1:])
        self.gate = ScaleGate(finest, gate, gate_bias)
        self.elan = ELANH(finest + c * len(self.reduce), c, finest)
        self.concat = merge == "concat"
        self.out_channels = finest * (2 if self.concat else 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        check_pyramid("ASSN", pyramid, self.factors)
        p3, *coarse = pyramid
        mask, entering = self.gate(p3)  # (B, 1, H, W), (B, C, H, W)
        levels = [entering, *(unit(x) for unit, x in zip(self.reduce, coarse, strict=True))]
        skip, start = (self._enter(unit, levels, mask) for unit in (self.elan.cv1, self.elan.cv2))
        refined = self.elan.refine(skip, start)
        return torch.cat((p3, refined), 1) if self.concat else p3 + refined

    def _enter(self, unit: Conv, levels: list[Tensor], mask: Tensor) -> Tensor:
        """`unit`, one of the two 1x1 that open the ELAN, over cat(enlarged levels) * mask.

        A 1x1 convolution commutes with nearest enlargement, cropping and a mask over pixels, so each level is
        multiplied by its share of the weight at its own resolution, and the sum is masked: the same numbers from 1.3
        instead of 3 C^2 products per pixel (three levels), and the wide concatenation is never made.
        """
        shares = unit.conv.weight.split([x.shape[1] for x in levels], 1)
        y = F.conv2d(levels[0], shares[0])
        for x, share, factor in zip(levels[1:], shares[1:], self.factors[1:], strict=True):
            y = y + enlarge(F.conv2d(x, share), factor, levels[0].shape[2:])
        return unit.finish(y * mask)


def scale_factors(strides: list[int]) -> list[int]:
    """How much each level is to be enlarged to meet the first. Raises ValueError where one is not a whole multiple."""
    if any(stride % strides[0] for stride in strides):
        raise ValueError(f"inputs have strides {' and '.join(map(str, strides))}; the first must be the finest")
    return [int(stride // strides[0]) for stride in strides]
