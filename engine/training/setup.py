"""What a training starts with: the model as its flags and its family's recipe say, and all that moves its weights."""

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.optim.ema import ModelEMA
from engine.optim.optimizer import Schedule, auto_optimizer, build_optimizer, scaled_weight_decay, warmup_iterations
from engine.training.autoanchor import adapt_anchors
from engine.training.autobatch import find_batch, optimizer_bytes, probe_step
from engine.training.recipe import Recipe, load_recipe
from engine.training.settings import HEAD_RULES, settle
from engine.training.state import NO_GROWTH, Training
from models.catalogue import head_type, resolve
from models.detector import build_model
from models.loading import load_model
from models.weights import transfer
from utils.cli import check_flags, input_size
from utils.device import amp_dtype
from utils.distributed.group import Group
from utils.errors import UserError

GPU_READ_STEPS = 10  # steps between two readings of the losses on a GPU, since each reading waits for the device


def family_recipe(args: argparse.Namespace, recipe_name: str | None, augment_words: Sequence[str]) -> Recipe:
    """The recipe of a model's family or head, changed by `--hyp`; the built-in data bring the demo's."""
    recipe = load_recipe(recipe_name, augment_words) if recipe_name else Recipe()
    if args.hyp or not args.data:
        recipe = load_recipe(args.hyp or "demo", augment_words, base=recipe)
    return recipe


def recipe_to_evolve(args: argparse.Namespace, augment_words: Sequence[str]) -> Recipe:
    """What `--evolve` begins with: the recipe as its file has it, before any flag or scaling."""
    cfg = args.cfg or (load_model(args.weights).config if args.weights else "yolov8n-assn")
    config = resolve(cfg, 1, ["item"], args.neck, {})
    return family_recipe(args, config["recipe"], augment_words).for_head(head_type(config).cls)


def start_model(args: argparse.Namespace, names: list[str], augment_words: Sequence[str],
                sizes_at: Callable[[int], np.ndarray], recipe: Recipe | None = None) -> tuple[nn.Module, Recipe]:
    """Build the model, carry weights in, and settle the recipe of its family with what the flags change in it.

    augment_words: keys of a recipe that the augmentation understands; sizes_at(imgsz) gives the (N, 2) width and height
    of all objects in pixels at that input size, which anchors are checked against; recipe: instead of the family's.
    """
    start = load_model(args.weights) if args.weights else None
    cfg = args.cfg or (start.config if start else "yolov8n-assn")
    config = resolve(cfg, len(names), names, args.neck, {"box_loss": args.box_loss, "assign": args.assign})
    recipe = copy.deepcopy(recipe) if recipe else family_recipe(args, config["recipe"], augment_words)
    with torch.device("meta"):  # no memory, no initialisation: only to learn what head it has
        head = build_model(config).head
    check_flags(args, HEAD_RULES, head)
    settle(args, recipe)
    recipe = recipe.for_head(head)
    args.imgsz = list(input_size(args.imgsz, max(head.strides)))[:len(args.imgsz)]
    config["trained"] = {"data": args.data or "shapes", "imgsz": args.imgsz}  # where val.py and detect.py begin
    if not args.noautoanchor:
        config, told = adapt_anchors(config, sizes_at(args.imgsz[0]), args.imgsz[0],
                                     recipe.head.get("anchor_t", 4.0), count=round(recipe.anchors))
        if told:
            print(told)
    recipe.gains = head.scale_gains(recipe.gains, max(args.imgsz))
    model = build_model(config, gains=recipe.gains, **recipe.head_arguments(head))
    for note in recipe.notes:
        print(note)
    if start:
        print(f"{args.weights}: {transfer(model, start)}")
        wild = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
        if wild:
            raise UserError(f"{args.weights}: {len(wild)} of its tensors hold values that are not finite, the first: "
                            f"{wild[0]}; nothing can be learned from them: take another checkpoint")
    return model, recipe


def fitting_batch(args: argparse.Namespace, recipe: Recipe, model: nn.Module, device: torch.device, images: int,
                  group: Group) -> int:
    """The batch of each process for `--batch-size -1`: the largest that `model`, on its device, trains within the
    memory there is; of several processes the smallest that one of them finds."""
    largest = max(args.imgsz) * (1.5 if args.multi_scale else 1)
    probe = probe_step(model, device, round(largest / max(model.strides)) * max(model.strides),
                       amp_dtype(device, args.amp))
    averaged = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    own = find_batch(probe, model, device, most=-(-images // group.world),
                     reserve=averaged + optimizer_bytes(model, recipe.optimizer))
    found = group.gather(own)
    batch = group.broadcast(min(found) if found else None)
    if not group.is_single:
        print(f"--batch-size -1: {batch} for each of {group.world} processes, the smallest of {found}")
    return batch


def stored_model(stored: dict[str, Any], data: str) -> tuple[nn.Module, Recipe]:
    """The model and the recipe of the run that wrote a checkpoint, whatever the files say by now; data: where its data
    are now."""
    if "trained" in stored["config"]:
        stored["config"]["trained"]["data"] = data or "shapes"
    return build_model(stored["config"], names=stored["names"]), Recipe.from_checkpoint(
        stored["train"]["recipe"])


def make_training(args: argparse.Namespace, recipe: Recipe, model: nn.Module, group: Group, device: torch.device,
                  batches: int) -> Training:
    """Optimiser, schedule, averaged weights and mixed precision for a model that is on its device."""
    kind, lr0, momentum, bias_lr = recipe.optimizer, recipe.lr0, recipe.momentum, recipe.warmup_bias_lr
    if kind == "auto":
        kind, lr0, momentum, bias_lr = auto_optimizer(model.num_classes, args.epochs * batches)
        print(f"--optimizer auto: {kind}, lr0 {lr0}, momentum {momentum}")
    decay = scaled_weight_decay(recipe.weight_decay, args.batch_size)
    optimizer = build_optimizer(model, kind, lr0, momentum, decay)
    warmup = warmup_iterations(recipe.warmup_epochs, batches, recipe.warmup_min_iters, args.epochs)
    schedule = Schedule(lr0, recipe.lrf, args.epochs, args.batch_size, warmup, momentum, recipe.warmup_momentum,
                        bias_lr, recipe.schedule)
    amp = amp_dtype(device, args.amp)
    # Without fp16 too: it leaves out a step whose gradients are not finite, and on a GPU nothing waits to find out.
    scale = {} if amp == torch.float16 else {"init_scale": 1.0, "growth_interval": NO_GROWTH}
    scaler = torch.amp.GradScaler(device.type, **scale)
    ema = ModelEMA(model)
    forward = group.wrap(model, args.sync_bn)
    if args.compile:
        model.model.compile()
    read_every = 1 if device.type == "cpu" or args.skip_bad_batches else GPU_READ_STEPS
    return Training(model, ema, optimizer, schedule, scaler, device, amp, recipe, group, forward, read_every=read_every)
