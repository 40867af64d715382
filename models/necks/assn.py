"""ASSN, the attentional scale-sequence neck (Park et al., smu-ivpl/ASSN): a gated fusion of all levels at the finest.

Legend: B images, C width, H, W pixels of the finest level, k levels.
"""

from collections.abc import Iterator
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.blocks import ELANH
from models.layers.conv import Conv
from models.necks.gates import ScaleGate
from models.necks.resample import check_pyramid, enlarge
from models.necks.start import zero_affine
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
        mask, levels = self._gated(pyramid)
        skip, start = (unit.finish(reduce(torch.add, self._shares(unit, levels)) * mask)
                       for unit in (self.elan.cv1, self.elan.cv2))
        p3, refined = pyramid[0], self.elan.refine(skip, start)
        return torch.cat((p3, refined), 1) if self.concat else p3 + refined

    def start_as_identity(self) -> slice:
        """Make the refined map 0 where it is added; see `models.necks.start`."""
        finest = self.elan.out_channels
        if not self.concat:
            zero_affine(self.elan.cv3.bn, self.elan.cv3.act, "ASSN")
        return slice(0, finest)

    def contributions(self, pyramid: list[Tensor]) -> list[Tensor]:
        """What each level adds at each pixel of the finest: (B, H, W) each, the length over channels of its part of
        the input of the two units that open the ELAN, under the mask."""
        mask, levels = self._gated(pyramid)
        parts = [self._shares(unit, levels) for unit in (self.elan.cv1, self.elan.cv2)]
        return [torch.cat(pair, 1).norm(dim=1) * mask[:, 0] for pair in zip(*parts, strict=True)]

    def _gated(self, pyramid: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The mask (B, 1, H, W), and the levels as they enter the concatenation, at their own resolutions."""
        p3, *coarse = pyramid
        mask, entering = self.gate(p3)
        return mask, [entering, *(unit(x) for unit, x in zip(self.reduce, coarse, strict=True))]

    def _shares(self, unit: Conv, levels: list[Tensor]) -> Iterator[Tensor]:
        """What each level adds to the convolution of `unit`, one of the two 1x1 that open the ELAN, over the
        concatenated enlarged levels: (B, c, H, W) each.

        A 1x1 convolution commutes with nearest enlargement, cropping and a mask over pixels, so each level is
        multiplied by its share of the weight at its own resolution, and the sum is masked: the same numbers from 1.3
        instead of 3 C^2 products per pixel (three levels), and the wide concatenation is never made.
        """
        weights = unit.conv.weight.split([x.shape[1] for x in levels], 1)
        for x, weight, factor in zip(levels, weights, self.factors, strict=True):
            y = F.conv2d(x, weight)
            yield y if factor == 1 else enlarge(y, factor, levels[0].shape[2:])


def scale_factors(strides: list[int]) -> list[int]:
    """How much each level is to be enlarged to meet the first. Raises ValueError where one is not a whole multiple."""
    if any(stride % strides[0] for stride in strides):
        raise ValueError(f"inputs have strides {' and '.join(map(str, strides))}; the first must be the finest")
    return [int(stride // strides[0]) for stride in strides]
