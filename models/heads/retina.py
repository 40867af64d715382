"""The head of RetinaNet (Lin et al., Focal Loss for Dense Object Detection, 2017): two towers of convolutions, shared
by all levels, to the sigmoid classes and to the offsets of anchors.

Legend: B images, h, w cells of a level, a anchors of a cell, N anchors of all levels, C classes.
"""

import re
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.assign.assignment import Assignment, of_points
from models.assign.iou_bands import assign_by_iou
from models.boxes.deltas import MAX_LOG_RATIO, decode_deltas
from models.boxes.pyramid_anchors import PyramidAnchors
from models.heads.base import Head, merge_gains
from models.heads.published_ssd import RAW_COCO, keep_outputs
from models.layers.attention import SelfAttention
from models.losses import AllReduce
from models.losses.checks import check_maps
from models.losses.focal import FocalLossConfig, retina_loss
from models.registry import register
from utils.boxes import clip_boxes
from utils.class_lists import COCO, COCO_IDS
from utils.select import SelectConfig
from utils.structures import PackedTargets, Raw

PRIOR = 0.01  # of an object of a class at an anchor, from which training starts (section 4.1)


@register("RetinaDetect", multi_input=True)
class RetinaDetect(Head):
    """RetinaNet's head. Levels must be equally wide: the towers keep their width.

    channels, strides: of the levels read. attention: one `SelfAttention`, shared by all levels, before both towers; our
    reading of RetinaNet+att of Yi et al. 2019, whose code was never published and whose 0.08 M parameters are those of
    one such unit. depth: 3x3 convolutions of a tower. base, octaves, ratios, anchors: as base, octaves, ratios, rule of
    `PyramidAnchors`. positive, negative, alpha, gamma, beta: as in `FocalLossConfig`; beta is Detectron's by default.

    candidates: how many pairs of anchor and class of each level a selection sees, the best first; None: all. The paper
    (section 4.1) takes 1000, for speed. Without it the same boxes are found wherever no level has more pairs above the
    confidence, as where objects are not crowded. With it pairs at the cut come and go with the last digit of a score,
    so that an exported file may differ from PyTorch by one.
    """

    gains = {"cls": 1.0, "box": 1.0}
    thresholds = SelectConfig(0.05, 0.5, 100, multi_label=True)  # of Detectron; torchvision keeps 300
    recipe = "retinanet"
    signature = r"(^|\.)cls_logits\.weight$"
    renames = {  # torchvision's retinanet_resnet50_fpn; convolutions were wrapped, as .0, from 0.14 on
        r"^backbone\.body\.(conv1|bn1)\.": r"stem.\1.",
        r"^backbone\.body\.(layer\d)\.": r"\1.",
        **{rf"^backbone\.fpn\.inner_blocks\.{i}\.(?:0\.)?": f"lateral{i + 3}." for i in range(3)},
        **{rf"^backbone\.fpn\.layer_blocks\.{i}\.(?:0\.)?": f"p{i + 3}." for i in range(3)},
        r"^backbone\.fpn\.extra_blocks\.(p[67])\.": r"\1.",
        r"^head\.classification_head\.conv\.(\d)\.(?:0\.)?": r"head.cls_tower.\1.",
        r"^head\.regression_head\.conv\.(\d)\.(?:0\.)?": r"head.box_tower.\1.",
        r"^head\.classification_head\.cls_logits\.": "head.cls_logits.",
        r"^head\.regression_head\.bbox_reg\.": "head.box_offsets.",
    }

    def __init__(self, channels: list[int], nc: int = 80, *, strides: list[int], attention: bool = False,
                 depth: int = 4, base: float = 4.0, octaves: int = 3, ratios: Sequence[float] = (0.5, 1.0, 2.0),
                 anchors: str = "exact", positive: float = 0.5, negative: float = 0.4, alpha: float = 0.25,
                 gamma: float = 2.0, beta: float = 1 / 9, candidates: int | None = None,
                 gains: dict[str, float] | None = None) -> None:
        super().__init__()
        if len(set(channels)) > 1:
            raise ValueError(f"its towers are shared by all levels, which have {', '.join(map(str, channels))} "
                             "channels; make them equal, with `merge: add` where a neck widens one")
        if candidates is not None and candidates < 1:
            raise ValueError(f"candidates {candidates} of a level: give 1 or more, or leave it out for all of them")
        self.num_classes, self.strides, self.candidates = nc, list(strides), candidates
        self.gains = merge_gains(self.gains, gains)
        self.loss_config = FocalLossConfig(self.gains, positive, negative, alpha, gamma, beta)
        self.anchors = PyramidAnchors(tuple(strides), base, octaves, tuple(ratios), anchors)
        self._sizes: dict[torch.device, Tensor] = {}
        width, per_cell = channels[0], self.anchors.per_cell
        self.attend = SelfAttention(width) if attention else nn.Identity()
        self.cls_tower, self.box_tower = (nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
                                          for _ in range(2))
        self.cls_logits = nn.Conv2d(width, per_cell * nc, 3, padding=1)
        self.box_offsets = nn.Conv2d(width, per_cell * 4, 3, padding=1)
        for conv in (*self.cls_tower, *self.box_tower, self.cls_logits, self.box_offsets):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls_logits.bias, -log((1 - PRIOR) / PRIOR))

    @property
    def per_cell(self) -> list[int]:
        """Candidates that `decode` gives for a cell of each level."""
        return [self.anchors.per_cell] * len(self.strides)

    def forward(self, pyramid: list[Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Levels (B, c, h, w) -> logits "cls" (B, a*C, h, w) and offsets "box" (B, a*4, h, w), anchor by anchor."""
        maps: dict[str, list[Tensor]] = {"cls": [], "box": []}
        for level in map(self.attend, pyramid):
            for name, tower, last in (("cls", self.cls_tower, self.cls_logits),
                                      ("box", self.box_tower, self.box_offsets)):
                x = level
                for conv in tower:
                    x = conv(x).relu_()
                maps[name].append(last(x))
        return {name: tuple(levels) for name, levels in maps.items()}

    def _boxes(self, raw: Raw) -> Tensor:
        """The anchors (N, 4), px."""
        device, shapes = raw.maps["box"][0].device, [(m.shape[2], m.shape[3]) for m in raw.maps["box"]]
        if device not in self._sizes:  # kept: a copy to a GPU in each step would make the host wait
            self._sizes[device] = self.anchors.sizes().to(device)
        return self.anchors.boxes(self._sizes[device], shapes, raw.image_size)

    def loss(self, raw: Raw, targets: PackedTargets, all_reduce: AllReduce | None = None) -> dict[str, Tensor]:
        """Weighted terms cls, box, times the batch size; with `all_reduce` a part of the loss of all processes."""
        check_maps([(m.shape[2], m.shape[3]) for m in raw.maps["box"]], self.strides, raw.image_size)
        return retina_loss(raw, self._boxes(raw), targets, self.loss_config, all_reduce)

    @property
    def assigner(self) -> str:
        return f"IoU {self.loss_config.positive:g} or more, or the best of an object"

    def assignment(self, raw: Raw, targets: PackedTargets) -> Assignment:
        """See `Head.assignment`."""
        anchors = self._boxes(raw)
        found = assign_by_iou(anchors, targets, self.loss_config.positive, self.loss_config.negative)
        offsets = torch.cat([_flatten(m, 4) for m in raw.maps["box"]], 1)
        counts = [m.shape[1] // 4 * m.shape[2] * m.shape[3] for m in raw.maps["box"]]
        return of_points(torch.where(found.positive, found.box, -1), counts,
                         decode_deltas(offsets, anchors, limit=MAX_LOG_RATIO), priors=anchors)

    def decode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy in input pixels, cut at the frame, and scores (B, N, C), float32; N runs level, row,
        column, anchor. Where `candidates` are limited, the other scores are 0, so that no selection finds them."""
        offsets = torch.cat([_flatten(m, 4) for m in raw.maps["box"]], 1)
        boxes = decode_deltas(offsets, self._boxes(raw), limit=MAX_LOG_RATIO)
        scores = [_flatten(m, self.num_classes).sigmoid() for m in raw.maps["cls"]]
        if self.candidates:
            scores = [_best_alone(level, self.candidates) for level in scores]
        return _clip(boxes, raw.image_size), torch.cat(scores, 1)

    @classmethod
    def count_classes(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> int | None:
        """From the rows of the last class convolution beside those of the last one of offsets."""
        def rows(pattern: str) -> int:
            return next((len(v) for k, v in state.items() if re.search(pattern, k)), 0)

        logits, offsets = rows(cls.signature), rows(r"(^|\.)(box_offsets|bbox_reg)\.weight$")
        return 4 * logits // offsets if offsets and 4 * logits % offsets == 0 else None

    @classmethod
    def adapt_original(cls, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of weights with a row for each of COCO's raw ids, as torchvision publishes them, the rows of the 80 classes,
        and their names."""
        state = dict(state)
        if cls.count_classes(state, {}) != RAW_COCO:
            return state, {}
        for key in state:
            if ".cls_logits." in key:
                state[key] = keep_outputs(state[key], RAW_COCO, COCO_IDS)
        return state, {"names": list(COCO)}


def _flatten(level: Tensor, width: int) -> Tensor:
    """A map (B, a*width, h, w) -> (B, h*w*a, width) in float32, whatever the precision it was computed in."""
    return level.flatten(2).unflatten(1, (-1, width)).permute(0, 3, 1, 2).flatten(1, 2).float()


def _best_alone(scores: Tensor, limit: int) -> Tensor:
    """Scores (B, n, C) of a level, 0 where they are below the `limit` best of their image, equal ones kept.

    The `limit` best pairs belong to the `limit` anchors of the best single scores: no more than those are sorted.
    """
    if torch.jit.is_tracing():  # the size of another frame is not known
        last = F.pad(scores.flatten(1), (0, limit), value=-1.0).topk(limit).values[:, -1]
        return torch.where(scores >= last[:, None, None], scores, 0)
    if scores.shape[1] * scores.shape[2] <= limit:
        return scores
    best = scores
    if scores.shape[1] > limit:
        rows = scores.amax(2).topk(limit, sorted=False).indices  # (B, limit)
        best = scores.gather(1, rows[..., None].expand(-1, -1, scores.shape[2]))
    last = best.flatten(1).topk(limit, sorted=False).values.amin(1)
    return torch.where(scores >= last[:, None, None], scores, 0)


def _clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    height, width = image_size
    if not torch.jit.is_tracing():
        return clip_boxes(boxes, height, width)
    limit = torch.stack([torch.as_tensor(side) for side in (width, height, width, height)])
    return torch.minimum(boxes.clamp(min=0), limit.to(boxes))
