"""The data of a training: splits, sampling weights of the images, and loaders."""

from dataclasses import replace

import numpy as np
import torch

from data.augment.policies.policy import Policy
from data.index import Index, load_index
from data.labels.records import RecordTable
from data.labels.scan_report import KINDS
from data.loading.build import eval_loader, has_mosaic, train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from data.sampling import describe, image_weights, oversample_small, repeat_rare
from data.tiles import tile_index
from engine.training.config import TrainConfig
from models.detector import Detector
from models.summary import smallest_normed
from utils.cli import worker_count
from utils.commands import command
from utils.distributed.group import Group
from utils.errors import UserError


def open_splits(config: TrainConfig, group: Group, stored: dict | None = None) -> tuple[Index, Index]:
    """(train, val) of `--data`; local rank 0 reads first, so that caches and the built-in data are made once.

    stored: the checkpoint of a run that is resumed, whose classes they must have; its data may have moved.
    """
    with group.local_rank0_first():
        try:
            train = open_train(config)
            val = load_index(config.data or "shapes", "val", single_cls=config.single_cls, strict=config.strict,
                              max_pixels=config.max_pixels)
        except UserError as error:
            where = "; if the data have moved since, give their YAML: --resume ... --data data.yaml"
            raise UserError(f"{error}{where if stored else ''}", error.code) from None
    if train.names != val.names:
        raise UserError(f"{config.data}: its train and val splits name different classes ({train.names[:5]} ... and "
                        f"{val.names[:5]} ...); give `names:` in the YAML", "class-mismatch")
    if stored and train.names != stored["names"]:
        raise UserError(f"--resume: {config.data} names the classes {train.names[:5]} ..., the run had "
                        f"{stored['names'][:5]} ...; give the data that it was started on", "class-mismatch")
    return train, val


def open_train(config: TrainConfig, polygons: bool = False) -> Index:
    """The training split, in windows with `--tile`; polygons: also read outlines, for copy-paste."""
    index = load_index(config.data or "shapes", "train", single_cls=config.single_cls, strict=config.strict,
                       polygons=polygons, max_pixels=config.max_pixels).for_training()
    _check_objects(index)
    return tile_index(index, config.tile, config.tile_overlap) if config.tile else index


def typical_side(index: Index) -> int:
    """The median longer side of the images in pixels, of their windows with `--tile`."""
    return int(np.median(RecordTable.from_records(index.records).sizes.max(1)))


def _check_objects(index: Index) -> None:
    """Raises `UserError` with the reasons if the split has no object to learn."""
    report = index.report
    if not bool(np.all(RecordTable.from_records(index.records).ignore)):
        return
    crowds = (f", {report.ignored} ignore regions (such as iscrowd), which are excluded from the loss: set these flags "
              "to 0 where they mark objects") if report.ignored else ""
    causes = [f"{report.count(kind)} {what}: {done} ({report.findings[kind][1]})"
              for kind, (what, done) in KINDS.items() if report.count(kind)]
    raise UserError(f"{index.source.yaml}: no object to learn in `train:`, {len(index)} images without a box{crowds}"
                    f"{''.join(f'; {cause}' for cause in causes)}; correct "
                    f"the labels, {command('data')} shows more", "no-objects")


def open_loaders(config: TrainConfig, augment: Policy, splits: tuple[Index, Index],
                 weights: np.ndarray | None, model: Detector, group: Group,
                 device: torch.device) -> tuple[Loader, Loader]:
    """Loaders of this process's part of the (training, validation) batches, in the model's frames; the latter have
    twice as many images, at most 32, in the frames of val.py. weights: see `fixed_weights`."""
    train, val = splits
    if config.batch_size % group.world:
        raise UserError(f"--batch-size {config.batch_size}: it is shared by {group.world} processes; give a multiple "
                        f"of {group.world}", "bad-value")
    _check_last_batch(config, len(train), model, group.world)
    loading = LoaderConfig(
        config.batch_size // group.world, workers=worker_count(config.workers, device.type), seed=config.seed,
        rank=group.rank, world=group.world, cache=config.cache, pin_memory=device.type == "cuda", device=device,
        rect=config.rect, frame=model.frame)
    if augment.shows_others and not config.rect and not has_mosaic(loading) and group.is_main:
        print("mosaic: off, since the frames of this model are not square")
    loader = train_loader(train, config.imgsz[0], augment, loading, weights)
    if config.cache == "gpu" and config.compile:
        loader.compile()
    # at most 32, so that 1 and 8 processes evaluate equal batches: a model's last digits depend on their size
    rect = model.frame.evaluates_rect(model.frame.resolve(config.imgsz[-1]))
    val_loading = replace(loading, batch_size=min(2 * loading.batch_size, 32), cache=None, rect=rect)
    return loader, eval_loader(val, config.imgsz[-1], val_loading)


def fixed_weights(config: TrainConfig, train: Index) -> np.ndarray | None:
    """(n,) sampling weights of the images by `--oversample-small` and `--rare-classes`; None for uniform sampling."""
    weights = np.ones(len(train))
    for flag, value, found in (
            ("--oversample-small", config.oversample_small, lambda by: oversample_small(train.records, by)),
            ("--rare-classes", config.rare_classes, lambda by: repeat_rare(train.records, len(train.names), by))):
        if value:
            own = found(value)
            print(describe(flag, train.records, own))
            weights *= own
    return None if (weights == weights[0]).all() else weights


def weights_by_result(train: Index, class_ap: list[float], fixed: np.ndarray | None) -> np.ndarray:
    """(n,) sampling weights for `--image-weights` from the AP of each class; fixed: factors from `fixed_weights`."""
    learned = image_weights(train.records, len(train.names), np.array(class_ap))
    return learned if fixed is None else learned * fixed


def _check_last_batch(config: TrainConfig, images: int, model: Detector, world: int) -> None:
    """Raises `UserError` if batch norm would get a single value: one image of one cell at the coarsest level."""
    batch, share = config.batch_size // world, -(-images // world)
    size = model.frame.up(model.frame.resolve(config.imgsz[0]))
    if share % batch == (batch > 1) and smallest_normed(model, size) == 1:
        raise UserError(f"--batch-size {config.batch_size}: of {images} images one is left alone in its batch, too "
                        f"little for batch norm at --imgsz {config.imgsz[0]}; "
                        f"{'change one of the two' if model.frame.size is None else 'take another'}", "bad-value")
