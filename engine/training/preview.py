"""What a training would begin with, opened to be looked at: model, recipe, data, and batches on the device.

Legend: B images, H, W pixels of the frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from data.index import Index
from data.loading.loader import Loader
from data.object_sizes import object_sizes
from data.tiles import tile_index
from engine.inference.view_flags import OVERLAP
from engine.training.config import TrainConfig
from engine.training.inputs import fixed_weights, open_loaders, open_splits, open_train
from engine.training.multiscale import to_device
from engine.training.recipe import Recipe
from engine.training.setup import start_model
from models.detector import Detector
from utils.device import amp_dtype, seed_everything
from utils.distributed.group import Group
from utils.structures import Batch, PackedTargets


@dataclass(frozen=True, eq=False)
class Preview:
    """config: resolved; model: on its device, with its start weights; amp: the type of its forward pass."""

    config: TrainConfig
    model: Detector
    recipe: Recipe
    train_index: Index
    val_index: Index
    loader: Loader
    val_loader: Loader
    device: torch.device
    amp: torch.dtype | None

    def training_batches(self, count: int) -> Iterator[tuple[Tensor, PackedTargets, Batch]]:
        """The first `count` batches of the training, over its epochs, the same ones each time: images (B, 3, H, W) and
        targets on the device, and the batch as the loader made it."""
        run = SimpleNamespace(device=self.device, model=self.model, epoch=0, batch=0)
        for number in range(count):
            run.epoch, run.batch = divmod(number, len(self.loader))
            if run.batch == 0:
                self.loader.set_epoch(run.epoch)
                batches = iter(self.loader)
            batch = next(batches)
            yield *to_device(self.config, run, batch)[:2], batch

    def validation_batches(self) -> Iterator[tuple[Tensor, PackedTargets, Batch]]:
        """All validation images, in the same form; their windows with `--tile`."""
        run, plain = SimpleNamespace(device=self.device), SimpleNamespace(multi_scale=False)
        for batch in self.val_loader:
            yield *to_device(plain, run, batch)[:2], batch


def open_preview(config: TrainConfig, group: Group, device: torch.device) -> Preview:
    """The model, weights, data, recipe and sizes of a training with these settings."""
    seed_everything(config.seed, device)
    train_index, val_index = open_splits(config, group)
    if config.tile:
        val_index = tile_index(val_index, config.tile, OVERLAP)  # evaluation looks at windows too
    model, config, recipe = start_model(config, train_index.names,
                                        lambda placement: object_sizes(train_index.records, placement))
    model = model.to(device, memory_format=torch.channels_last)
    policy = recipe.make_policy(model.frame.fill)
    if policy.needs_polygons:
        train_index = open_train(config, polygons=True)
    loader, val_loader = open_loaders(config, policy, (train_index, val_index), fixed_weights(config, train_index),
                                      model, group, device)
    return Preview(config, model, recipe, train_index, val_index, loader, val_loader, device,
                   amp_dtype(device, config.amp))
