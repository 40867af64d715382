"""Which object overlaps each prior most, and which prior each object: what SSD's and RetinaNet's matching is made of.

Legend: B images, N priors (anchors) of a frame, M boxes of the fullest image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.assign.padded_indices import box_chunks
from models.boxes.similarity import box_similarity
from utils.structures import PackedTargets


class Overlaps(NamedTuple):
    """iou (B, N): of each prior with the object that it overlaps most, 0 where it overlaps none; box (B, N): that
    object's row, the first of equal ones, 0 where there is none. prior_iou, prior (B, M): of each object the same, -1
    and any prior for rows that hold no object. is_best (B, N): whether a prior overlaps some object as much as any
    other prior does, ties included.
    """

    iou: Tensor
    box: Tensor
    prior_iou: Tensor
    prior: Tensor
    is_best: Tensor


@torch.no_grad()
def overlaps(priors: Tensor, targets: PackedTargets) -> Overlaps:
    """priors (N, 4) xyxy, the same for all images. Crowd regions are no objects.

    Memory: temporaries of `padded_indices.PAIRS_*` elements, or of B * N where that is more; M does not enter.
    """
    batch, boxes = targets.labels.shape
    shape = batch, len(priors)
    iou, box = priors.new_zeros(shape), torch.zeros(shape, dtype=torch.int64, device=priors.device)
    is_best = torch.zeros(shape, dtype=torch.bool, device=priors.device)
    values, indices = [priors.new_zeros(batch, 0)], [box[:, :0]]
    for part in box_chunks(boxes, batch * len(priors), priors.device):
        truth = targets.boxes[:, part, None].to(priors.dtype)  # (B, m, 1, 4)
        pair = box_similarity(truth, priors, "iou").masked_fill_(~targets.valid[:, part, None], -1)  # (B, m, N)
        value, index = pair.max(1)  # (B, N)
        better = value > iou
        iou, box = torch.where(better, value, iou), torch.where(better, index + part.start, box)
        value, index = pair.max(2)  # (B, m)
        is_best |= ((pair == value[..., None]) & (pair > 0)).any(1)
        values.append(value)
        indices.append(index)
    return Overlaps(iou, box, torch.cat(values, 1), torch.cat(indices, 1), is_best)
