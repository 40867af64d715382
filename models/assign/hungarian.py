"""One-to-one matching of predictions and objects (Carion et al. 2020, DETR, eq. 1), by scipy's solver.

Legend: O outputs (decoder layers and the encoder), B images, Q predictions, M rows of the fullest image, K classes.
"""

import numpy as np
import torch
from torch import Tensor

from models.boxes.similarity import box_similarity
from utils.boxes import cxcywh_to_xyxy
from utils.structures import PackedTargets

CLASS, L1, GIOU = 2.0, 5.0, 2.0  # weights of the costs (Deformable DETR, DINO, Salience DETR)
ALPHA, EPS = 0.25, 1e-6
TINY = 1e-12  # keeps quotients of empty boxes finite and changes no other in float32


@torch.no_grad()
def match_costs(logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
    """(O, B, Q, M): how badly predictions logits (O, B, Q, K), boxes (O, B, Q, 4) fit objects with labels (B, M), boxes
    (B, M, 4), both cx, cy, w, h as fractions: focal cost of the class, L1 distance, -GIoU."""
    chosen = labels[None, :, None].expand(*logits.shape[:3], -1)
    p = logits.float().sigmoid().gather(-1, chosen)  # (O, B, Q, M)
    positive = ALPHA * (1 - p).square() * -(p + EPS).log()
    negative = (1 - ALPHA) * p.square() * -(1 - p + EPS).log()
    distance = torch.cdist(boxes.float(), objects[None].expand(len(boxes), -1, -1, -1), p=1)
    overlap = box_similarity(cxcywh_to_xyxy(boxes.float())[..., None, :], cxcywh_to_xyxy(objects)[None, :, None],
                             kind="giou", eps=TINY)
    return CLASS * (positive - negative) + L1 * distance - GIOU * overlap


def match(logits: Tensor, boxes: Tensor, targets: PackedTargets, objects: Tensor) -> Tensor:
    """(O, B, M): the prediction of each object, -1 where a row holds none or more objects than predictions are there.

    All costs go to the host in one copy, all matches come back in one. Costs that are not finite, as of a model that
    diverges, count as the worst.
    """
    from scipy.optimize import linear_sum_assignment  # here: a second to import, and only DETR's training needs it

    costs = match_costs(logits, boxes, targets.labels, objects).cpu().numpy()
    valid = targets.valid.cpu().numpy()
    found = np.full((len(logits), *valid.shape), -1, np.int64)
    for image, rows in enumerate(map(np.flatnonzero, valid)):
        if not len(rows):
            continue
        for output, cost in enumerate(costs[:, image]):
            table = np.nan_to_num(cost[:, rows], nan=1e6, posinf=1e6, neginf=-1e6)
            query, column = linear_sum_assignment(table)
            found[output, image, rows[column]] = query
    return torch.from_numpy(found).to(logits.device, non_blocking=True)
