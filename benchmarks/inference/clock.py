"""What an image costs by stage, of a runtime at one batch size."""

from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from engine.inference.look import STAGES
from engine.inference.runtimes.base import Runtime
from utils.reporting.stage_clock import StageClock
from utils.select import SelectConfig

Stages = dict[str, float]


def time_batch(runtime: Runtime, pictures: Sequence[np.ndarray], size: tuple[int, int],
               thresholds: SelectConfig) -> Stages:
    """Milliseconds per image of one batch; each stage waits for the GPU."""
    clock = StageClock(runtime.device, STAGES)
    placed, letterboxes = zip(*(runtime.prepare(picture, size) for picture in pictures), strict=True)
    images = torch.cat(placed)
    clock.lap("pre-process")
    boxes, scores = runtime.predict(images, runtime.content(letterboxes))
    clock.lap("inference")
    for found, letterbox in zip(runtime.select(boxes, scores, thresholds), letterboxes, strict=True):
        found.to_original(letterbox).cpu()
    clock.lap("NMS")
    return {stage: 1e3 * seconds / len(pictures) for stage, seconds in clock.seconds.items()}


def medians(rounds: Sequence[Stages]) -> Stages:
    """Of each stage."""
    return {stage: median(row[stage] for row in rounds) for stage in STAGES}
