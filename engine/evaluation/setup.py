"""What an evaluation starts with: the images of a split, and detections in the classes of the dataset."""

from collections.abc import Callable, Container

import torch
from torch import Tensor

from data import Index
from data.loading.build import eval_loader
from data.loading.config import LoaderConfig
from engine.evaluation.config import ValConfig
from engine.inference.augment import augmented
from engine.inference.runtimes.base import Runtime
from engine.inference.slicing import SlicedDetector, Views
from engine.inference.view_flags import slicing_of
from utils.class_names import match_classes
from utils.cli import worker_count
from utils.distributed.group import Group
from utils.errors import UserError
from utils.select import SelectConfig, Selector
from utils.structures import Detections


def open_loader(config: ValConfig, runtime: Runtime, index: Index, group: Group, done: Container[int] = ()):
    """This process's images of the split at the size that the runtime takes, but for those that are `done`."""
    if config.rect and runtime.fixed_size:
        raise UserError(f"--rect: {runtime.path} takes images of one size only, {runtime.fixed_size[0]} x "
                        f"{runtime.fixed_size[1]} pixels; drop the flag", "fixed-size")
    if config.rect is not None and runtime.frame.fits_images:
        flag = "--rect" if config.rect else "--no-rect"
        raise UserError(f"{flag}: {runtime.path} has frames that fit the images of a batch in any case; drop the flag",
                        "flag-without-effect")
    settings = LoaderConfig(
        config.batch_size, workers=worker_count(config.workers, runtime.device.type), rank=group.rank,
        world=group.world, pin_memory=runtime.device.type == "cuda", rect=uses_rect(config, runtime),
        frame=runtime.frame)
    return eval_loader(index, runtime.choose_size(config.imgsz), settings, done)


def uses_rect(config: ValConfig, runtime: Runtime) -> bool:
    """Whether batches of like aspect are evaluated: as the flag says, otherwise as the model declares."""
    return runtime.frame.evaluates_rect(runtime.choose_size(config.imgsz)) if config.rect is None else config.rect


def predict_for(config: ValConfig, runtime: Runtime) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """`runtime.predict`, at several scales with `--augment`."""
    return augmented(runtime) if config.augment else runtime.predict


def open_slices(config: ValConfig, runtime: Runtime, select: Selector, limit: int | None = None) -> SlicedDetector:
    """How `--slice` looks at images; select: with labels of the dataset; limit: most detections of an image that a
    submission keeps, None where there is none."""
    views = Views(select, predict_for(config, runtime), config.batch_size, limit or config.max_det,
                  always_full=not config.submit)
    return SlicedDetector(runtime, runtime.choose_size(config.imgsz), config.thresholds(runtime.thresholds),
                          slicing_of(config), views)


def select_for(runtime: Runtime, index: Index, single_cls: bool, data: str) -> Selector:
    """`runtime.select` with labels of the dataset; says so where names had to be matched. data: its name in messages.

    Raises `UserError` where the classes of model and dataset do not match.
    """
    if single_cls and len(runtime.names) > 1:
        return one_class(runtime.select)
    if single_cls and len(index.names) == 1:
        return runtime.select
    order, note = match_classes(runtime.names, index.names, str(runtime.path), str(data))
    if note:
        print(note)
    return relabelled(runtime.select, order) if order else runtime.select


def scores_for(runtime: Runtime, index: Index, single_cls: bool, data: str) -> Callable[[Tensor], Tensor]:
    """A function from scores (B, N, C) by the classes of the model to scores by those of the dataset."""
    if single_cls:
        return lambda scores: scores.amax(-1, keepdim=True)
    order, _ = match_classes(runtime.names, index.names, str(runtime.path), str(data))
    places = None if order is None else [order.index(k) for k in range(len(order))]  # the model's label of each
    return lambda scores: scores if places is None else scores[..., places]


def one_class(select: Selector) -> Selector:
    """`select` for a model of several classes that is evaluated as if it had one."""
    def merged(boxes: Tensor, scores: Tensor, config: SelectConfig) -> list[Detections]:
        return select(boxes, scores.amax(-1, keepdim=True), config)

    return merged


def relabelled(select: Selector, order: list[int]) -> Selector:
    """`select` with the labels of the dataset; order: the dataset's label of each label of the model."""
    def mapped(boxes: Tensor, scores: Tensor, config: SelectConfig) -> list[Detections]:
        found = select(boxes, scores, config)
        return [Detections(d.boxes, d.scores, torch.tensor(order, device=d.labels.device)[d.labels]) for d in found]

    return mapped
