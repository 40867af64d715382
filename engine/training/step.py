"""A training step: losses and gradients of a batch, in parts where memory runs out, and the step of the optimiser.

Legend: B images of a batch, K terms of the loss, P parts of a batch.
"""

import contextlib

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from engine.training.autobatch import is_out_of_memory
from engine.training.nonfinite import BufferGuard
from engine.training.state import Training
from utils.structures import PackedTargets

SPLIT_BATCHES = 50  # batches computed in parts before a larger part is tried again; doubled each time that fails


def learn(run: Training, images: Tensor, targets: PackedTargets, due: bool,
          fresh: bool = False) -> tuple[list[str], Tensor]:
    """Forward, loss and backward of a batch, in more parts where memory runs out; the names and sums (K,) of its
    losses. due: a step follows, so processes exchange their gradients; fresh: no gradients are gathered yet, so that
    trying larger parts again risks none."""
    trial = fresh and run.split > 1 and run.split_left <= 0
    if trial:
        run.split //= 2
        run.split_left = run.split_wait
    while True:
        try:
            found = learn_in_parts(run, images, targets, due)
            run.split_left -= run.split > 1
            return found
        except RuntimeError as error:
            if not is_out_of_memory(error) or run.group.world > 1 or run.split >= len(images):
                raise
        # here, not above: the error holds on to the tensors
        run.split *= 2
        run.split_wait = 2 * run.split_wait if trial else SPLIT_BATCHES
        run.split_left, trial = run.split_wait, False
        run.optimizer.zero_grad(set_to_none=True)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        lost = "" if fresh else "; what this step had gathered before is lost"
        print(f"\nout of memory: this batch and the next {run.split_left} are computed in {run.split} parts whose "
              f"gradients add up to those of the batch, then larger parts are tried again{lost}; a smaller "
              "--batch-size would be faster")


def learn_in_parts(run: Training, images: Tensor, targets: PackedTargets, due: bool) -> tuple[list[str], Tensor]:
    all_reduce, size, total = None if run.group.is_single else run.group.sum, -(-len(images) // run.split), 0
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    if len(parts) > 1:
        amounts = _amounts(run, images, targets, parts)
        all_reduce = lambda _: amounts  # noqa: E731  each part is a part of the loss of the whole batch
    for part in parts:
        exchange = due and part.stop >= len(images)
        with contextlib.nullcontext() if exchange else run.group.no_sync(run.forward):
            with torch.autocast(run.device.type, dtype=run.amp, enabled=run.amp is not None):
                raw = run.forward(images[part])
            losses = run.model.loss(raw, targets[part], all_reduce=all_reduce)  # in float32, summed over the images
            # gradients are averaged over processes, the loss is a sum over all of their images
            run.scaler.scale(sum(losses.values()) * run.group.world).backward()
        total = total + torch.stack(list(losses.values())).detach()
    return list(losses), total


def _amounts(run: Training, images: Tensor, targets: PackedTargets, parts: list[slice]) -> Tensor:
    """What the loss of the whole batch is divided by: it depends on what each part predicts, so each is looked at once
    without gradients. Running statistics and random numbers are left as they were."""
    told: list[Tensor] = []
    guard = BufferGuard(run.model)
    with torch.no_grad(), torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
        for part in parts:
            with torch.autocast(run.device.type, dtype=run.amp, enabled=run.amp is not None):
                raw = run.forward(images[part])
            run.model.loss(raw, targets[part], all_reduce=lambda vector: told.append(vector) or vector)
    guard.put_back()
    return torch.stack(told).sum(0)


def step(run: Training) -> None:
    """One optimiser step, and one of the averaged weights. A step whose gradients are not finite is left out by the
    scaler on the device itself, so that nothing waits to find out; `Training.count_left_out` reads how many were."""
    if run.recipe.clip_grad:
        run.scaler.unscale_(run.optimizer)
        clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad)
    run.scaler.step(run.optimizer)
    if run.scaler.is_enabled():
        run.unread_skips += list(run.scaler._found_inf_per_device(run.optimizer).values())
    # without fp16 the scale stays 1: it would be halved by each step that is left out, and never grow
    run.scaler.update(None if run.amp == torch.float16 else 1.0)
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.model)
