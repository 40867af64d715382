"""Set losses of a transformer's answers: varifocal classes, L1 and GIoU of matched boxes (Salience DETR, DINO).

Legend: O outputs of decoder and encoder, B images, Q predictions, M rows of the fullest image, G groups of denoising,
S = 2 G M slots, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign.assignment import Assignment
from models.assign.hungarian import TINY, match, match_costs
from models.boxes.similarity import box_similarity, full_precision
from utils.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from utils.structures import PackedTargets

COVERED = 0.5  # fraction of a box in a crowd region from which on it may be right, and is no false answer


@dataclass(frozen=True)
class Answers:
    """Predictions of several outputs: logits (O, B, Q, K), boxes (O, B, Q, 4), cx, cy, w, h as fractions; of each
    object the prediction that should be it, (O, B, M) or of several groups (1, B, G, M), -1 where there is none."""

    logits: Tensor
    boxes: Tensor
    matches: Tensor


def as_fractions(targets: PackedTargets, content: Tensor) -> Tensor:
    """Boxes (B, M, 4) cx, cy, w, h as fractions of what shows the image; content (B, 2) height and width in pixels."""
    size = content.flip(1).repeat(1, 2).to(targets.boxes)
    return xyxy_to_cxcywh(targets.boxes) / size[:, None]


def matched(logits: Tensor, boxes: Tensor, targets: PackedTargets, objects: Tensor) -> Answers:
    """Every output matched anew."""
    return Answers(logits, boxes, match(logits.detach(), boxes.detach(), targets, objects))


@torch.no_grad()
def set_assignment(logits: Tensor, boxes: Tensor, targets: PackedTargets, content: Tensor) -> Assignment:
    """The matches of one output, logits (B, Q, K) and boxes (B, Q, 4); content (B, 2) as in `as_fractions`."""
    objects = as_fractions(targets, content)
    found = match(logits[None], boxes[None], targets, objects)[0]  # (B, M)
    image, row = (found >= 0).nonzero(as_tuple=True)
    query = found[image, row]
    size = content.flip(1).repeat(1, 2).to(boxes)
    guess = cxcywh_to_xyxy(boxes[image, query].float()) * size[image]
    cost = match_costs(logits[None], boxes[None], targets.labels, objects)[0][image, query, row]
    return Assignment(image, row, torch.full_like(row, -1), torch.ones_like(cost), guess, cost=cost)


def own_slots(logits: Tensor, boxes: Tensor, targets: PackedTargets) -> Answers:
    """Answers of denoising: the positive slots of each group are its objects, in order."""
    rows = targets.labels.shape[1]
    groups = logits.shape[2] // max(2 * rows, 1)
    slot = torch.arange(groups, device=logits.device)[:, None] * 2 * rows + torch.arange(rows, device=logits.device)
    matches = torch.where(targets.valid[:, None], slot, -1).flatten(1)  # (B, G*M)
    return Answers(logits, boxes, matches.expand(len(logits), -1, -1))


def set_terms(answers: Answers, targets: PackedTargets, objects: Tensor, content: Tensor) -> dict[str, Tensor]:
    """Sums over images of cls, l1, giou, each (O,): not yet divided by the number of objects.

    cls: binary cross entropy with the IoU of its object as target, background weighed by 0.75 p^2 (varifocal, Zhang et
    al. 2021, eq. 2). objects (B, M, 4) as fractions. Predictions in crowd regions that match nothing count for nothing.
    """
    with full_precision(answers.logits.device):
        logits, boxes, matches = answers.logits.float(), answers.boxes.float(), answers.matches
        repeats = matches.shape[2] // max(objects.shape[1], 1)
        truth = objects.repeat(1, repeats, 1)  # (B, R, 4)
        labels = targets.labels.repeat(1, repeats)[None].expand(len(logits), -1, -1)  # (O, B, R)
        there = matches >= 0
        index = matches.clamp(min=0)
        found = boxes.gather(2, index[..., None].expand(-1, -1, -1, 4))  # (O, B, R, 4)
        l1 = ((found - truth).abs().sum(-1) * there).sum((1, 2))
        corners = cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth)[None]
        giou = ((1 - box_similarity(*corners, kind="giou", eps=TINY)) * there).sum((1, 2))
        overlap = box_similarity(*corners, kind="iou", eps=TINY).detach() * there
        p = logits.detach().sigmoid()
        weight = 0.75 * p.square() * ~_covered(boxes.detach(), targets, content)[..., None]
        cls = (weight * F.softplus(logits)).sum((1, 2, 3))
        output, image = (torch.arange(n, device=index.device) for n in index.shape[:2])
        place = output[:, None, None], image[:, None], index, labels
        own = logits[place]  # (O, B, R)
        # of the matched entries: their BCE with weight and target `overlap` in place of what was summed above
        right = overlap * (F.softplus(own) - overlap * own) - weight[place] * F.softplus(own)
        return {"cls": cls + (right * there).sum((1, 2)), "l1": l1, "giou": giou}


def _covered(boxes: Tensor, targets: PackedTargets, content: Tensor) -> Tensor:
    """(O, B, Q): whether more than `COVERED` of a predicted box lies in one crowd region."""
    size = content.flip(1).repeat(1, 2).to(boxes)[:, None]  # (B, 1, 4)
    x1, y1, x2, y2 = (cxcywh_to_xyxy(boxes) * size).unsqueeze(3).unbind(-1)  # (O, B, Q, 1)
    left, top, right, bottom = targets.boxes[:, None].unbind(-1)  # (B, 1, M)
    inner = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0) * (
        torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    share = inner / ((x2 - x1) * (y2 - y1)).clamp(min=TINY)
    return ((share > COVERED) & targets.ignore[:, None]).any(-1)
