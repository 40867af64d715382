"""Which object overlaps each prior most, and which prior each object: what SSD's and RetinaNet's matching is made of.

Legend: B images, N priors (anchors) of a frame, M boxes of the fullest image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.padded_indices import box_chunks
from utils.structures import PackedTargets

CROWDED = 0.5  # of a prior's area, above which it lies in a crowd region


class Overlaps(NamedTuple):
    """iou (B, N): of each prior with the object that it overlaps most, 0 where it overlaps none; box (B, N): that
    object's row, the first of equal ones, 0 where there is none. prior_iou, prior (B, M): of each object the same, -1
    and any prior for rows that hold no object. is_best (B, N): whether a prior overlaps some object as much as any
    other prior does, ties included. crowded (B, N): whether more than half of a prior lies in one crowd region.
    """

    iou: Tensor
    box: Tensor
    prior_iou: Tensor
    prior: Tensor
    is_best: Tensor
    crowded: Tensor


@torch.no_grad()
def overlaps(priors: Tensor, targets: PackedTargets) -> Overlaps:
    """priors (N, 4) xyxy of some area, the same for all images. Crowd regions are no objects. A box of NaN is the best
    of every prior of its image, so that it is seen in the loss.

    Memory: temporaries of `padded_indices.PAIRS_*` elements, or of B * N where that is more; M does not enter.
    """
    batch, boxes = targets.labels.shape
    iou = priors.new_zeros(batch, len(priors))
    box = torch.zeros_like(iou, dtype=torch.int64)
    is_best, crowded = (torch.zeros_like(iou, dtype=torch.bool) for _ in range(2))
    values, places = [priors.new_zeros(batch, 0)], [box[:, :0]]
    area = _area(priors)  # (N,)
    for part in box_chunks(boxes, batch * len(priors), priors.device):
        truth = targets.boxes[:, part].to(priors.dtype)  # (B, m, 4)
        shared = _intersection(truth, priors)  # (B, m, N)
        crowded |= ((shared > CROWDED * area) & targets.ignore[:, part, None]).any(1)
        pair = shared / (_area(truth)[..., None] + area - shared)
        pair = pair.masked_fill_(~targets.valid[:, part, None], -1)
        value, index = pair.max(1)  # (B, N)
        better = (value > iou) | value.isnan()
        iou, box = torch.where(better, value, iou), torch.where(better, index + part.start, box)
        value, place = pair.max(2)  # (B, m)
        is_best |= (~(pair < value[..., None]) & ~(value <= 0)[..., None]).any(1)
        values.append(value)
        places.append(place)
    return Overlaps(iou, box, torch.cat(values, 1), torch.cat(places, 1), is_best, crowded)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(boxes: Tensor, priors: Tensor) -> Tensor:
    """Areas (B, m, N) that boxes (B, m, 4) and priors (N, 4) share."""
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # (B, m, 1) each
    px1, py1, px2, py2 = priors.t().contiguous().unbind()  # (N,) each
    width = (torch.minimum(x2, px2) - torch.maximum(x1, px1)).clamp_(min=0)
    return (torch.minimum(y2, py2) - torch.maximum(y1, py1)).clamp_(min=0).mul_(width)
