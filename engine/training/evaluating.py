"""Evaluation within a training, by the rule of val.py: of whole images, or with `--tile` of windows merged.

A model that is trained on windows of large images is used on windows; whole images shrunk to its input size show it
objects that it never learned. So best.pt is chosen by what `val.py --slice` says of the same windows.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.evaluation.evaluate import Evaluation, Predict, evaluate, without_losses
from engine.evaluation.protocol_flags import chosen_protocol, selection
from engine.evaluation.sliced import evaluate_sliced
from engine.inference.runtimes.base import Runtime
from engine.inference.runtimes.checkpoint import metadata_of
from engine.inference.slicing import Sliced, SlicedDetector, Slicing, Views
from engine.inference.view_flags import OVERLAP, VIEWS
from engine.training.state import Job
from utils.cli import worker_count
from utils.distributed.group import Group
from utils.signals import StopRequest
from utils.structures import PackedTargets

BATCH = 32  # windows at once, as val.py's default


class LiveRuntime(Runtime):
    """A model as it is within a training: on its device, neither fused nor copied."""

    def __init__(self, path: Path, model: nn.Module, device: torch.device) -> None:
        super().__init__(path, metadata_of(model), device, model.select)
        self.model = model

    def _predict(self, images: Tensor, content: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.decode(self.model(images.contiguous(memory_format=torch.channels_last), content))


class StoppableDetector(SlicedDetector):
    """As `SlicedDetector`; raises `Stopped` before an image if a signal has arrived."""

    stop: StopRequest

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Sliced]:
        for found in super().run(images):
            self.stop.check()
            yield found


def evaluate_model(job: Job, model: nn.Module, device: torch.device, group: Group, losses: bool) -> Evaluation:
    """A model on the validation split, judged by `--protocol` too; all processes of `group` call this.

    model: in evaluation mode, on `device`. losses: also the mean loss terms, which whole images alone have.
    """
    protocol = chosen_protocol(job.config)
    thresholds = selection(model.thresholds, protocol)
    if job.config.tile:
        runtime = LiveRuntime(job.folder / "weights" / "best.pt", model, device)
        detector = StoppableDetector(runtime, runtime.choose_size(), thresholds,
                                     Slicing(job.config.tile, OVERLAP, merge=VIEWS), Views(batch=BATCH))
        detector.stop = job.stop
        result = evaluate_sliced(detector, job.val_index, group=group,
                                 threads=worker_count(job.config.workers, device.type))
    else:
        predict = _with_losses(model) if losses else without_losses(
            lambda images, content: model.decode(model(images, content)))
        result = evaluate(predict, model.select, job.stop.between(job.val_loader), job.val_index, thresholds,
                          device=device, group=group)
    result.judge_by(protocol, job.val_index.names, group)
    return result


def _with_losses(model: nn.Module) -> Predict:
    def predict(images: Tensor, targets: PackedTargets) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        raw = model(images, targets.content)
        return *model.decode(raw), model.loss(raw, targets)

    return predict
