"""Which box each prior learns (SSD, Liu et al. 2016, section 2.2, "Matching strategy").

Legend: B images, M boxes of the fullest image, P priors.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.prior_overlap import overlaps
from utils.structures import PackedTargets


class PriorMatch(NamedTuple):
    """box (B, P) int64: which box of its image a prior learns, -1 for none; excluded (B, P) bool: neither background
    nor object, as more than half of it lies in a crowd region."""

    box: Tensor
    excluded: Tensor


@torch.no_grad()
def match_priors(priors: Tensor, targets: PackedTargets, iou: float = 0.5) -> PriorMatch:
    """Every prior learns the box that it overlaps most, from an IoU of `iou` on; then every box takes the prior that
    overlaps it most, whatever the IoU, the last of several boxes that want the same one.

    priors (P, 4) xyxy in the unit of the targets. Boxes without area take none. A prior in a crowd region may learn an
    object there. Memory does not grow with M (`prior_overlap`).
    """
    found = overlaps(priors, targets)
    box = torch.where(found.iou >= iou, found.box, -1)
    takes = targets.valid & ~(found.prior_iou <= 0)  # a box of NaN is to be seen in the loss
    row = torch.arange(targets.labels.shape[1], device=box.device).expand_as(takes)
    # what takes none goes to a last column that is cut off
    forced = box.new_full((len(box), len(priors) + 1), -1)
    forced = forced.scatter_reduce_(1, torch.where(takes, found.prior, len(priors)), row, "amax")[:, :-1]
    box = torch.where(forced >= 0, forced, box)
    return PriorMatch(box, found.crowded & (box < 0))
