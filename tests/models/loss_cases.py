"""Raw maps and targets that the tests of losses and assignment share."""

import itertools

import numpy as np
import torch
from torch import Tensor

from models.assign import padded_indices
from models.heads.retina import RetinaDetect
from models.heads.ssd import SSDDetect
from models.losses import AllReduce, AnchorLossConfig, DFLLossConfig, anchor_head_loss, dfl_head_loss, multibox
from models.losses.box_loss import MeanIoULoss
from utils.boxes import cxcywh_to_xyxy
from utils.structures import PackedTargets, Raw, Targets, pack_targets

STRIDES = [8, 16, 32]
V7_ANCHORS = torch.tensor([[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]],
                          dtype=torch.float32).view(3, 3, 2)
V8_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
V7_GAINS = {"box": 0.05, "obj": 0.7, "cls": 0.3}
HEADS = ["dfl", "anchor", "ota", "ota aux"]  # whose losses are tested
PRIOR_HEADS = ["multibox", "focal"]  # of priors: SSD's, which learns hard background alone, and RetinaNet's


def targets_from_rows(rows: np.ndarray, batch: int, size: int) -> PackedTargets:
    """Normalised (image, class, cx, cy, w, h) rows -> packed pixel boxes of square images."""
    rows = torch.from_numpy(rows)
    images = [rows[rows[:, 0] == i] for i in range(batch)]
    return pack_targets([Targets(cxcywh_to_xyxy(r[:, 2:]) * size, r[:, 1].long()) for r in images])


def random_targets(batch: int, count: int, size: int, classes: int, seed: int = 0,
                   largest: float = 0.4) -> PackedTargets:
    """Up to `count` boxes in each image, sides from 1.5 % of the image to `largest` of it, mostly small."""
    rng = np.random.RandomState(seed)
    targets = []
    for i in range(batch):
        n = count if i == 0 else rng.randint(0, count + 1)
        sides = size * np.exp(rng.uniform(np.log(0.015), np.log(largest), (n, 2)))
        low = rng.rand(n, 2) * (size - sides)
        boxes = torch.from_numpy(np.concatenate((low, low + sides), 1)).float()
        targets.append(Targets(boxes, torch.from_numpy(rng.randint(0, classes, n))))
    return pack_targets(targets)


def dfl_maps(batch: int, classes: int, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Box (B, 64, h, w) and class (B, nc, h, w) logits by the rule of the v8 goldens."""
    box, cls = [], []
    for k, stride in enumerate(STRIDES):
        side = size // stride
        value = np.random.RandomState(200 + k).standard_normal((batch, 64 + classes, side, side))
        value[:, :64] = 2.0 * value[:, :64] - 0.25 * (np.arange(64) % 16)[:, None, None]
        value = torch.from_numpy(value.astype(np.float32))
        box.append(value[:, :64].clone())
        cls.append(value[:, 64:].clone())
    return box, cls


def anchor_maps(batch: int, classes: int, size: int, strides: list[int] | None = None, first: int = 0) -> list[Tensor]:
    """(B, 3, h, w, 5+nc) logits by the rule of the anchor goldens."""
    return [torch.from_numpy(np.random.RandomState(100 + first + k).standard_normal(
        (batch, 3, size // s, size // s, 5 + classes)).astype(np.float32)) for k, s in enumerate(strides or STRIDES)]


def prior_maps(batch: int, per_cell: int, outputs: int, size: int) -> list[Tensor]:
    """Offsets (B, 4*per_cell, h, w) of all levels, then logits (B, outputs*per_cell, h, w)."""
    return [torch.from_numpy(np.random.RandomState(400 + k).standard_normal(
        (batch, width * per_cell, size // s, size // s)).astype(np.float32))
        for width in (4, outputs) for k, s in enumerate(STRIDES)]


def head_maps(head: str, batch: int, classes: int, size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The maps of one of `HEADS` or `PRIOR_HEADS`, leaves with gradients."""
    if head in PRIOR_HEADS:
        maps = prior_maps(batch, *((4, classes + 1) if head == "multibox" else (9, classes)), size)
    elif head == "dfl":
        maps = list(itertools.chain(*dfl_maps(batch, classes, size)))
    else:
        maps = anchor_maps(batch, classes, size) + (anchor_maps(batch, classes, size, first=3) if "aux" in head else [])
    return [m.to(dtype).requires_grad_() for m in maps]


def anchor_raw(lead: list[Tensor], size: int, aux: list[Tensor] | None = None) -> Raw:
    """What an anchor head gives for square images, with auxiliary maps where there are some."""
    return Raw({"lead": tuple(lead), **({"aux": tuple(aux)} if aux else {})}, (size, size))


def head_loss(head: str, maps: list[Tensor], targets: PackedTargets, size: int, all_reduce: AllReduce | None = None,
              mean: MeanIoULoss | None = None, **options) -> dict[str, Tensor]:
    """The loss of one of `HEADS` or `PRIOR_HEADS` on maps by `head_maps` of square images; mean: of the YOLO heads."""
    if head == "multibox":
        raw = Raw({"loc": tuple(maps[:3]), "conf": tuple(maps[3:])}, (size, size))
        classes = maps[3].shape[1] // 4 - 1
        with torch.device("meta"):  # its weights are not asked for
            ssd = SSDDetect([1] * 3, classes, [size / 10, size / 4, size / 2, size], [[2]] * 3, STRIDES, **options)
        return ssd.loss(raw, targets, all_reduce)
    if head == "focal":
        raw = Raw({"box": tuple(maps[:3]), "cls": tuple(maps[3:])}, (size, size))
        with torch.device("meta"):
            retina = RetinaDetect([1] * 3, maps[3].shape[1] // 9, strides=STRIDES, **options)
        return retina.loss(raw, targets, all_reduce)
    if head == "dfl":
        raw = Raw({"box": tuple(maps[:3]), "cls": tuple(maps[3:])}, (size, size))
        return dfl_head_loss(raw, STRIDES, targets, DFLLossConfig(V8_GAINS, **options), all_reduce, mean)
    anchors = V7_ANCHORS.to(maps[0].device)
    config = AnchorLossConfig(V7_GAINS, head.split()[0], **options)
    return anchor_head_loss(anchor_raw(maps[:3], size, maps[3:]), anchors, STRIDES, targets, config, all_reduce,
                            mean)


def pad_as_on_cuda(monkeypatch) -> None:
    """Let the CPU run the padded lists that a GPU gets."""
    for module in (padded_indices, multibox):  # each has the function under its own name
        monkeypatch.setattr(module, "sync_free", lambda device: False)
