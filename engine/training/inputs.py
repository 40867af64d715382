"""What a training reads, as its flags say: the splits, how often each image is shown, and the loaders."""

import argparse
from dataclasses import replace

import numpy as np
import torch

from data.augment.plan import AugmentConfig
from data.index import Index, load_index
from data.labels.records import RecordTable
from data.labels.scan_report import KINDS
from data.loading.build import eval_loader, train_loader
from data.loading.config import LoaderConfig
from data.loading.loader import Loader
from data.sampling import describe, image_weights, oversample_small, repeat_rare
from data.tiles import tile_index
from utils.cli import worker_count
from utils.distributed.group import Group
from utils.errors import UserError


def open_splits(args: argparse.Namespace, group: Group, stored: dict | None = None) -> tuple[Index, Index]:
    """(train, val) of `--data`; one process of a machine reads first, so that caches and shapes are made once.

    stored: the checkpoint of a run that is resumed, whose classes they must have; its data may lie elsewhere by now.
    """
    with group.local_rank0_first():
        try:
            train = open_train(args)
            held = load_index(args.data or "shapes", "val", single_cls=args.single_cls, strict=args.strict,
                              max_pixels=args.max_pixels)
        except UserError as error:
            where = "; where the data have moved since, give their YAML: --resume ... --data data.yaml"
            raise UserError(f"{error}{where if stored else ''}") from None
    if train.names != held.names:
        raise UserError(f"{args.data}: its train and val splits name different classes ({train.names[:5]} ... and "
                        f"{held.names[:5]} ...); give `names:` in the YAML")
    if stored and train.names != stored["names"]:
        raise UserError(f"--resume: {args.data} names the classes {train.names[:5]} ..., the run had "
                        f"{stored['names'][:5]} ...; give it back the data that it was started on")
    return train, held


def open_train(args: argparse.Namespace, polygons: bool = False) -> Index:
    """The training split, in windows where `--tile` asks for them; polygons: read outlines for copy-paste too."""
    index = load_index(args.data or "shapes", "train", single_cls=args.single_cls, strict=args.strict,
                       polygons=polygons, max_pixels=args.max_pixels)
    _check_objects(index)
    return tile_index(index, args.tile, args.tile_overlap) if args.tile else index


def _check_objects(index: Index) -> None:
    """Raises `UserError` with what became of the labels where there is no object to learn in the whole split."""
    report = index.report
    if not bool(np.all(RecordTable.from_records(index.records).ignore)):
        return
    crowds = (f", {report.ignored} ignore regions (such as iscrowd), which are never learned: set these flags to 0 "
              "where they mark objects") if report.ignored else ""
    causes = [f"{report.count(kind)} {what}: {done} ({report.findings[kind][1]})"
              for kind, (what, done) in KINDS.items() if report.count(kind)]
    raise UserError(f"{index.source.yaml}: no object to learn in `train:`, {len(index)} images without a box{crowds}"
                    f"{''.join(f'; {cause}' for cause in causes)}; correct the labels, python -m data shows more")


def open_loaders(args: argparse.Namespace, augment: AugmentConfig, train: Index, held: Index,
                 weights: np.ndarray | None, stride: int, group: Group, device: torch.device) -> tuple[Loader, Loader]:
    """Loaders of this process's share of training batches, and of validation batches of twice their size or 32."""
    if args.batch_size % group.world:
        raise UserError(f"--batch-size {args.batch_size}: it is shared by {group.world} processes; give a multiple of "
                        f"{group.world}")
    _check_last_batch(args, len(train), stride, group.world)
    config = LoaderConfig(
        args.batch_size // group.world, workers=worker_count(args.workers, device.type), seed=args.seed,
        rank=group.rank, world=group.world, cache=args.cache, pin_memory=device.type == "cuda", device=device,
        rect=args.rect, stride=stride)
    loader = train_loader(train, args.imgsz[0], augment, config, weights)
    if args.cache == "gpu" and args.compile:
        loader.compile()
    # not more, so that 1 or 8 processes evaluate the same batches, whose size a model's last digits depend on
    val_config = replace(config, batch_size=min(2 * config.batch_size, 32), cache=None, rect=False)
    return loader, eval_loader(held, args.imgsz[-1], val_config)


def fixed_weights(args: argparse.Namespace, train: Index) -> np.ndarray | None:
    """(n,) how often each image is shown relative to others, None where all alike."""
    weights = np.ones(len(train))
    for flag, value, found in (
            ("--oversample-small", args.oversample_small, lambda by: oversample_small(train.records, by)),
            ("--rare-classes", args.rare_classes, lambda by: repeat_rare(train.records, len(train.names), by))):
        if value:
            own = found(value)
            print(describe(flag, train.records, own))
            weights *= own
    return None if (weights == weights[0]).all() else weights


def weights_by_result(train: Index, class_ap: list[float], fixed: np.ndarray | None) -> np.ndarray:
    """(n,) the same for `--image-weights` once a validation has told the AP of each class; fixed: what flags gave."""
    learned = image_weights(train.records, len(train.names), np.array(class_ap))
    return learned if fixed is None else learned * fixed


def _check_last_batch(args: argparse.Namespace, images: int, stride: int, world: int) -> None:
    """Raises `UserError` where a batch would give batch norm one single value: one image of one coarsest cell."""
    batch, share = args.batch_size // world, -(-images // world)
    if args.imgsz[0] <= stride and share % batch == (batch > 1):
        raise UserError(f"--batch-size {args.batch_size}: of {images} images one is left alone in its batch, too "
                        f"little for batch norm at --imgsz {args.imgsz[0]}; change one of the two")
