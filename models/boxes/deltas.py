"""Boxes as offsets from priors (anchors): the coding of SSD, Faster R-CNN and RetinaNet."""

from math import log

import torch
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

MAX_LOG_RATIO = log(1000 / 16)  # Detectron's bound on ln(size / prior size), so that exp cannot overflow


def encode_deltas(boxes: Tensor, priors: Tensor, variances: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """((centre - prior centre) / prior size / v0, ln(size / prior size) / v1), Girshick et al. 2014 (R-CNN, appendix C)
    with the variances of Liu et al. 2016 (SSD): (0.1, 0.2) there, (1, 1) in RetinaNet.

    boxes, priors: (..., 4) xyxy of one unit, broadcast. Returns (..., 4) as x, y, w, h. A side of no length counts as a
    millionth of the prior's.
    """
    box, prior = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(priors)
    size = prior[..., 2:]
    shift = (box[..., :2] - prior[..., :2]) / size
    return torch.cat((shift / variances[0], (box[..., 2:] / size).clamp(min=1e-6).log() / variances[1]), -1)


def decode_deltas(deltas: Tensor, priors: Tensor, variances: tuple[float, float] = (1.0, 1.0),
                  limit: float | None = None) -> Tensor:
    """The inverse of `encode_deltas`: (..., 4) x, y, w, h -> (..., 4) xyxy; limit: most of ln(size / prior size)."""
    prior = xyxy_to_cxcywh(priors)
    size = prior[..., 2:]
    growth = deltas[..., 2:] * variances[1]
    growth = growth if limit is None else growth.clamp(max=limit)
    return cxcywh_to_xyxy(torch.cat((deltas[..., :2] * variances[0] * size + prior[..., :2], growth.exp() * size), -1))
