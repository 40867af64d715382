"""Batches on the device, with multi-scale training at a random size each.

Legend: B images, M boxes of the fullest image, H, W pixels of the frame.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.config import TrainConfig
from engine.training.state import Training
from utils.structures import Batch, PackedTargets


def draw_size(seed: int, epoch: int, batch: int, imgsz: int, stride: int) -> int:
    """The side of this batch: uniform over the multiples of `stride` in [0.5, 1.5] * imgsz, as in YOLOv3 to v8.

    A function of (seed, epoch, batch), the same after a resume and in all processes.
    """
    low, high = max(round(imgsz * 0.5 / stride), 1), math.floor(imgsz * 1.5 / stride)
    rng = np.random.default_rng([seed, epoch, batch, 0x512E])  # the last number: not the samples' streams
    return int(rng.integers(low, high, endpoint=True)) * stride


def resize_batch(images: Tensor, targets: PackedTargets, size: int, stride: int) -> tuple[Tensor, PackedTargets]:
    """Images (B, 3, H, W) uint8 to longest side `size`, both sides multiples of `stride`, as floats in [0, 1]; boxes
    are scaled with them, each axis by its own factor."""
    height, width = images.shape[2:]
    ratio = size / max(height, width)
    new = [math.ceil(side * ratio / stride) * stride for side in (height, width)]
    if new == [height, width]:
        return images, targets
    images = images.to(torch.float32).div_(255)
    images = F.interpolate(images, size=new, mode="bilinear", align_corners=False)
    scale = targets.boxes.new_tensor([new[1] / width, new[0] / height] * 2)
    content = targets.content
    if content is not None:
        content = (content * scale[:2].flip(0)).round().long()
    return images, PackedTargets(targets.boxes * scale, targets.labels, targets.ignore, targets.valid, content)


def to_device(config: TrainConfig, run: Training, batch: Batch) -> tuple[Tensor, PackedTargets, int]:
    """Images, targets and size of a batch on the model's device; the size is 0 without `--multi-scale`."""
    images = batch.images.to(run.device, non_blocking=True, memory_format=torch.channels_last)
    targets = batch.targets.to(run.device, non_blocking=True)
    if not config.multi_scale:
        return images, targets, 0
    stride, imgsz = run.model.frame.multiple, config.imgsz[0]
    size = draw_size(config.seed, run.epoch, run.batch, imgsz, stride)
    size = round(size * max(images.shape[2:]) / imgsz)  # of the longest side, where imgsz is that of the shorter
    return *resize_batch(images, targets, size, stride), size
