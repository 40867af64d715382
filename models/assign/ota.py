"""Simplified optimal transport assignment of YOLOv7 (after Ge et al., OTA, CVPR 2021, and YOLOX's SimOTA).

Legend: B images, M boxes of the fullest image, K candidates of the fullest image, nc classes, k most candidates of a
box.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.assign.anchor_match import LevelMatches, Positives, cell_corner, decode_relative, take
from models.assign.padded_indices import box_chunks, padded_nonzero, padded_table, resolve_claims
from models.boxes.similarity import box_similarity, upcast
from utils.structures import PackedTargets

IOU_COST = 3.0  # weight of -ln(IoU) beside the class cost


@torch.no_grad()
def assign_ota(maps: Sequence[Tensor], matches: Sequence[LevelMatches], anchors: Tensor, strides: Sequence[int],
               targets: PackedTargets, *, top: int = 10) -> list[Positives]:
    """Choose, among the candidates of anchor matching, those that serve a box best as the model predicts now.

    maps: (B, na, h, w, 5+nc) logits per level; anchors: (L, na, 2) pixels. All levels compete. Box m takes its
    max(1, floor(sum of its `top` best IoUs)) cheapest candidates, cost = class BCE + 3 * -ln(IoU), whichever box they
    were candidates of; one claimed by several boxes goes to the box for which it is cheapest, of all boxes.
    The candidates of an image are a set: where several boxes name the same anchor of the same cell it counts once (the
    original lists it once per box, so that a box may spend its choices on copies). Memory: O(B*K*nc) with K at most
    the places of all maps, plus pairwise temporaries of `padded_indices.PAIRS_*` elements.
    """
    device, boxes = maps[0].device, targets.boxes.shape[1]
    tables = [_pool(match, level.shape) for match, level in zip(matches, maps, strict=True)]
    if boxes == 0:
        return [_chosen(place, torch.full_like(place, -1), 0) for place, _ in tables]
    image = torch.arange(len(maps[0]), device=device)[:, None]
    predicted, logits = [], []
    for level, (place, _), anchor, stride in zip(maps, tables, anchors, strides, strict=True):
        raw = upcast(take(level, image, place))  # (B, K_l, 5+nc)
        shape = level.shape[2:4]
        predicted.append((decode_relative(raw, place, anchor, stride, shape) + cell_corner(place, shape)) * stride)
        logits.append(raw[..., 4:])
    keep = torch.cat([kept for _, kept in tables], 1)  # (B, K)
    owner = _transport(torch.cat(predicted, 1), torch.cat(logits, 1), keep, targets, top)  # (B, K)
    owners = owner.split([place.shape[1] for place, _ in tables], 1)
    return [_chosen(place, level, boxes * top) for (place, _), level in zip(tables, owners, strict=True)]


def _pool(match: LevelMatches, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The set of an image's candidates on one level: places (B, K_l) and keep (B, K_l)."""
    batch, places = shape[0], shape[1] * shape[2] * shape[3]
    target = torch.where(match.keep, match.place, places).flatten(1)
    named = torch.zeros(batch, places + 1, dtype=torch.bool, device=target.device).scatter_(1, target, True)
    return padded_table(named[:, :places], bound=target.shape[1])


def _transport(predicted: Tensor, logits: Tensor, keep: Tensor, targets: PackedTargets, top: int) -> Tensor:
    """predicted (B, K, 4) pixels, logits (B, K, 1+nc), keep (B, K) -> each candidate's owner (B, K), -1 for none."""
    batch, pool = keep.shape
    k = min(top, pool)
    if k == 0:
        return torch.full_like(keep, -1, dtype=torch.int64)
    absent, present = _class_costs(logits)  # (B, K), (B, nc, K)
    image = torch.arange(batch, device=keep.device)[:, None]
    best_cost = predicted.new_full((batch, pool), torch.inf)
    best_box = torch.zeros(batch, pool, dtype=torch.int64, device=keep.device)
    asked = []
    for part in box_chunks(targets.boxes.shape[1], batch * pool, keep.device):
        truth = targets.boxes[:, part, None].to(predicted.dtype)  # (B, m, 1, 4)
        usable = keep[:, None] & targets.valid[:, part, None]  # (B, m, K)
        iou = box_similarity(truth, predicted[:, None], "iou") * usable  # (B, m, K)
        cost = absent[:, None] + present[image, targets.labels[:, part]] - IOU_COST * torch.log(iou + 1e-8)
        cost = cost.masked_fill_(~usable, torch.inf)
        many = iou.topk(k, -1).values.sum(-1).long().clamp(min=1)  # (B, m): the dynamic k of SimOTA
        values, indices = cost.topk(k, -1, largest=False)  # (B, m, k), cheapest first
        within = torch.arange(k, device=keep.device) < many[..., None]
        asked.append((indices, within & (values < torch.inf)))
        value, index = cost.min(1)  # (B, K)
        better = value < best_cost
        best_cost = torch.where(better, value, best_cost)
        best_box = torch.where(better, index + part.start, best_box)
    places, claimed = (torch.cat(parts, 1) for parts in zip(*asked, strict=True))
    return resolve_claims(places, claimed, best_box, pool)[0]


def _class_costs(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Class BCE of q = sqrt(p_obj * p_cls) against a one-hot target, split so that no (M, K, nc) tensor is made:
    the cost of candidate k for class c is absent[k] + present[c, k]."""
    p = logits.sigmoid()
    q = (p[..., 1:] * p[..., :1]).sqrt_().transpose(1, 2).contiguous()  # (B, nc, K)
    log_not = torch.log1p(-q.clamp(max=1 - 1e-7))
    return -log_not.sum(1), log_not - q.clamp(min=1e-12).log_()


def _chosen(place: Tensor, owner: Tensor, bound: int) -> Positives:
    rows = padded_nonzero(owner >= 0, bound)
    box = owner[rows.image, rows.place].clamp(min=0)
    return Positives(rows.image, place[rows.image, rows.place], box, rows.keep)
