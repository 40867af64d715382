"""Set-up of a training: model, recipe, batch size, optimiser, schedule and precision."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from data.images.placement import Placement
from engine.optim.ema import ModelEMA
from engine.optim.groups import optimizer_groups
from engine.optim.optimizer import auto_optimizer, build_optimizer
from engine.optim.rules import read_rules
from engine.optim.schedule import Schedule, scaled_weight_decay, warmup_iterations
from engine.training.autoanchor import adapt_anchors
from engine.training.autobatch import find_batch, optimizer_bytes, probe_step
from engine.training.config import DEFAULT_MODEL, FRAME_RULES, HEAD_RULES, TrainConfig, resolve_settings
from engine.training.recipe import Recipe, load_recipe
from engine.training.state import NO_GROWTH, Training
from models.catalogue import resolve, without_neck
from models.detector import Detector, build_model
from models.loading import load_model
from models.necks.start import starts_as_identity
from models.summary import smallest_normed
from models.weights import load_backbone, pixels_note, transfer
from utils.cli import check_flags, flag_of
from utils.device import amp_dtype
from utils.distributed.group import Group
from utils.errors import UserError
from utils.frame import Frame

GPU_READ_STEPS = 10  # steps between two readings of the losses on a GPU; each reading waits for the device


def family_recipe(config: TrainConfig, recipe_name: str | None) -> Recipe:
    """The recipe of a model's family or head, changed by `--hyp`; with the built-in data by the demo recipe."""
    recipe = load_recipe(recipe_name) if recipe_name else Recipe()
    if config.hyp or not config.data:
        recipe = load_recipe(config.hyp or "demo", base=recipe)
        if not config.hyp and not recipe.has_mosaic:
            recipe = replace(recipe, close_mosaic=0)  # the demo's is for the policies that have mosaics
    return recipe


def recipe_to_evolve(config: TrainConfig) -> Recipe:
    """The recipe that `--evolve` starts from: as in its file, before any flag or scaling."""
    start = load_model(config.weights) if config.weights else None
    model_config, blank = _blank(config, ["item"], start)
    return family_recipe(config, model_config["recipe"]).for_head(blank.head)


def _blank(config: TrainConfig, names: list[str], start: Detector | None) -> tuple[dict[str, Any], Detector]:
    """The model's config and the model without memory or initialisation, to know its head. start: that of --weights."""
    cfg = config.cfg or (start.config if start else DEFAULT_MODEL)
    head_flags = {"box_loss": config.box_loss, "assign": config.assign}
    if not config.cfg and start and config.box_loss:  # options of another box loss go
        cfg = {**cfg, "options": {key: value for key, value in cfg["options"].items() if key != "box_options"}}
    try:
        model_config = resolve(cfg, len(names), names, config.neck, head_flags, config.levels)
        with torch.device("meta"):
            return model_config, build_model(model_config)
    except UserError as error:
        raise _naming_flag(error, {"neck": config.neck, **head_flags}) from None


def start_model(config: TrainConfig, names: list[str], sizes_at: Callable[[Placement], np.ndarray],
                recipe: Recipe | None = None) -> tuple[nn.Module, TrainConfig, Recipe]:
    """Build the model and transfer weights; returns it with the resolved settings and recipe.

    sizes_at(placement): (N, 2) width and height of all objects in pixels of frames, which anchors are checked against;
    recipe: instead of the family's.
    """
    start = load_model(config.weights) if config.weights else None
    model_config, blank = _blank(config, names, start)
    config = _with_start(config, model_config, blank, start)
    recipe, head = recipe or family_recipe(config, model_config["recipe"]), blank.head
    check_flags(config, HEAD_RULES, head)
    check_flags(config, FRAME_RULES, blank.frame)
    config, recipe = resolve_settings(_with_size(config, recipe, blank.frame, model_config["source"]), recipe)
    recipe = recipe.for_head(head)
    config = config.replace(imgsz=blank.frame.round_each(config.imgsz, model_config["source"]))
    # where val.py and detect.py start
    model_config["trained"] = {"data": config.data or "shapes", "imgsz": list(config.imgsz),
                               **({"tile": config.tile} if config.tile else {})}
    if not config.noautoanchor:
        sizes = sizes_at(Placement.of(blank.frame, config.imgsz[0]))
        model_config, note = adapt_anchors(model_config, sizes, config.imgsz[0],
                                           recipe.head.get("anchor_t", 4.0), count=round(recipe.anchors))
        if note:
            print(note)
    recipe = replace(recipe, gains=head.scale_gains(recipe.gains, max(config.imgsz)))
    if config.neck_lr is not None:
        recipe = replace(recipe, groups=[{"match": r"^neck\.", "lr": config.neck_lr}, *recipe.groups])
    model, carried = _build_from(start, config.weights, model_config, {"gains": recipe.gains,
                                                                       **recipe.head_arguments(head)})
    for note in recipe.notes + unreached_milestones(recipe, config.epochs) + no_mosaics(recipe, config) + carried:
        print(note)
    if start:
        _check_weights(model, config.weights)
    if config.backbone:
        report = load_backbone(model, config.backbone)
        print(*filter(None, (f"--backbone {config.backbone}: {report}", pixels_note(model, report))), sep="\n")
        _check_weights(model, config.backbone)
    return model, config, recipe


def _with_start(config: TrainConfig, model_config: dict[str, Any], blank: Detector,
                source: Detector | None) -> TrainConfig:
    """The settings with how the neck starts, which is entered into its options too: as `--start` says, else as the
    model file does, else as nothing where weights are carried to a model whose neck they lack.

    blank: the model; source: that of `--weights`. Raises `UserError` for flags of a neck without one that starts anew.
    """
    neck, flag = model_config["neck"], config.start
    given = next((flag_of(name) for name in ("start", "neck_lr") if getattr(config, name) is not None), None)
    if not neck:
        if given:
            raise UserError(f"{given}: this model has no neck that is put in; add --neck, or drop it",
                            "flag-without-effect")
        return config
    if source and (source.config["neck"] or {}).get("type") == neck["type"]:
        if flag:
            raise UserError(f"--start {flag}: {config.weights} brings a neck {neck['type']} with its weights; drop it",
                            "flag-without-effect")
        neck.pop("start", None)
        return config
    able = hasattr(blank.model[-2], "start_as_identity")
    start = flag or neck.get("start") or ("identity" if source and able else None)
    if start:
        neck["start"] = start
    return config.replace(start=start)


def _build_from(source: Detector | None, path: str, model_config: dict[str, Any],
                arguments: dict[str, Any]) -> tuple[Detector, list[str]]:
    """The model with the weights of `source`, which was read from `path`, and what there is to say of that. Where its
    neck starts as nothing, they are transferred into its base."""
    if source is None:
        return build_model(model_config, **arguments), []
    if not starts_as_identity(model_config):
        model = build_model(model_config, **arguments)
        return model, [f"{path}: {transfer(model, source)}"]
    base = build_model(without_neck(model_config), **arguments)
    report = transfer(base, source)
    return build_model(model_config, base=base, **arguments), [
        f"{path}: {report}", f"neck {model_config['neck']['type']} starts as identity: the model begins as its base "
        "alone (--start published: as from scratch)"]


def unreached_milestones(recipe: Recipe, epochs: int) -> list[str]:
    """A note on milestones of the recipe that a training of so many epochs ends before, if there are any."""
    late = [str(milestone) for milestone in recipe.milestones if milestone >= epochs]
    return [f"milestones {', '.join(late)} of the recipe are not reached in {epochs} epochs: the learning rate does "
            "not fall there; give others with --hyp"] if late else []


def no_mosaics(recipe: Recipe, config: TrainConfig) -> list[str]:
    """A note where the last epochs without mosaic are all that there are."""
    epochs = config.epochs
    if not recipe.has_mosaic or config.rect or not recipe.augment.get("mosaic", 1) or config.close_mosaic < epochs:
        return []
    return [f"mosaic: never on, since the last {config.close_mosaic} epochs go without (close_mosaic), and there are "
            f"{epochs}; --close-mosaic 0 shows mosaics in all, --close-mosaic {epochs // 4} in most"]


def _with_size(config: TrainConfig, recipe: Recipe, frame: Frame, name: str) -> TrainConfig:
    """The settings with the size that the model's frame says where no flag does: the only one that it takes, before a
    recipe's; that of its images, after a recipe's."""
    if config.imgsz is not None:
        return config
    if frame.size is not None:
        size, other = frame.size, recipe.run.get("imgsz")
        if other not in (None, *size):
            print(f"imgsz {other} of the recipe is left out: {name} takes images of {size[0]} x {size[1]} pixels alone")
        return config.replace(imgsz=size)
    return config.replace(imgsz=(frame.short,)) if frame.fits_images and "imgsz" not in recipe.run else config


def _naming_flag(error: UserError, flags: dict[str, str | None]) -> UserError:
    """An error of a model file's row, preceded by the flag whose value the row does not accept."""
    flag = next((f"{flag_of(name)} {value}: " for name, value in flags.items()
                 if value and repr(value) in str(error)), "")
    return UserError(f"{flag}{error}", error.code)


def _check_weights(model: nn.Module, path: str) -> None:
    """Raises `UserError` if weights that were transferred from `path` are not finite."""
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise UserError(f"{path}: {len(bad)} of its tensors hold values that are not finite, the first: {bad[0]}; it "
                        "cannot be trained from: use another checkpoint", "not-finite")


def fitting_batch(config: TrainConfig, recipe: Recipe, model: nn.Module, device: torch.device, images: int,
                  group: Group) -> int:
    """The batch size of each process for `--batch-size -1`: the largest whose training step fits into the free memory
    of the device of `model`; of several processes the smallest that one finds. images: in the training split."""
    step, factor = model.frame.multiple, 1.5 if config.multi_scale else 1
    largest = model.frame.up(model.frame.resolve(max(config.imgsz)))
    probe = probe_step(model, device, tuple(round(side * factor / step) * step for side in largest),
                       amp_dtype(device, config.amp))
    averaged = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    alone = smallest_normed(model, largest) == 1  # one image is then too little for batch norm
    share = -(-images // group.world)
    own = find_batch(probe, model, device, least=2 if alone else 1, most=share,
                     reserve=averaged + optimizer_bytes(model, recipe.optimizer))
    found = group.gather(own)
    batch = group.broadcast(min(found) if found else None)
    while alone and batch > 2 and share % batch == 1:  # as the last of an epoch neither
        batch -= 1
    if not group.is_single:
        print(f"--batch-size -1: {batch} for each of {group.world} processes, the smallest of {found}")
    return batch


def stored_model(stored: dict[str, Any], data: str) -> tuple[nn.Module, Recipe]:
    """The model and the recipe of the run that wrote a checkpoint, even if their files have changed; data: `--data`."""
    if "trained" in stored["config"]:
        stored["config"]["trained"]["data"] = data or "shapes"
    return build_model(stored["config"], names=stored["names"]), Recipe.from_checkpoint(
        stored["train"]["recipe"])


def make_training(config: TrainConfig, recipe: Recipe, model: nn.Module, group: Group, device: torch.device,
                  batches: int) -> Training:
    """Optimiser, schedule, averaged weights and mixed precision for a model on its device; batches: of an epoch."""
    kind, lr0, momentum, bias_lr = recipe.optimizer, recipe.lr0, recipe.momentum, recipe.warmup_bias_lr
    if kind == "auto":
        kind, lr0, momentum, bias_lr = auto_optimizer(model.num_classes, config.epochs * batches)
        print(f"--optimizer auto: {kind}, lr0 {lr0}, momentum {momentum}")
    decay = scaled_weight_decay(recipe.weight_decay, config.batch_size, recipe.nominal_batch)
    groups = optimizer_groups(model, decay, recipe.decay, read_rules(recipe.groups, "the recipe"))
    optimizer = build_optimizer(groups, kind, lr0, momentum, recipe.nesterov)
    warmup = warmup_iterations(recipe.warmup_epochs, batches, recipe.warmup_min_iters, config.epochs)
    schedule = Schedule(lr0, recipe.lrf, config.epochs, config.batch_size, warmup, momentum, recipe.warmup_momentum,
                        bias_lr, recipe.schedule, tuple(recipe.milestones), recipe.gamma, recipe.nominal_batch)
    amp = amp_dtype(device, config.amp)
    # also without fp16: it skips a step whose gradients are not finite, without waiting for a GPU
    scale = {} if amp == torch.float16 else {"init_scale": 1.0, "growth_interval": NO_GROWTH}
    scaler = torch.amp.GradScaler(device.type, **scale)
    ema = ModelEMA(model, recipe.ema)
    ddp_model = group.wrap(model, config.sync_bn)
    if config.compile:
        model.model.compile()
    read_every = 1 if device.type == "cpu" or config.skip_bad_batches else GPU_READ_STEPS
    return Training(model, ema, optimizer, schedule, scaler, device, amp, recipe, group, ddp_model,
                    read_every=read_every)
