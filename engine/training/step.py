"""A training step: losses and gradients of a batch, in micro-batches after running out of memory, and the update.

Legend: B images of a batch, K terms of the loss, P micro-batches of a batch.
"""

import contextlib

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from engine.training.autobatch import is_out_of_memory
from engine.training.nonfinite import BufferSnapshot
from engine.training.state import Training
from utils.structures import PackedTargets

RETRY_BATCHES = 50  # batches in micro-batches before larger ones are tried again; doubled each time that fails


def forward_backward(run: Training, images: Tensor, targets: PackedTargets, is_step: bool,
                     fresh: bool = False) -> tuple[list[str], Tensor]:
    """Forward, loss and backward of a batch; out of memory falls back to micro-batches. Returns the names and sums (K,)
    of its losses.

    is_step: an optimiser step follows, so processes exchange their gradients; fresh: no gradients are accumulated yet,
    so that trying larger micro-batches again risks none.
    """
    if fresh:
        run.step_images = 0
    trial = fresh and run.micro_batches > 1 and run.retry_in <= 0
    if trial:
        run.micro_batches //= 2
        run.retry_in = run.retry_wait
    while True:
        try:
            losses = forward_backward_chunked(run, images, targets, is_step)
            run.retry_in -= run.micro_batches > 1
            run.step_images += len(images) * run.group.world  # of all processes, which have equally many
            return losses
        except RuntimeError as error:
            if not is_out_of_memory(error) or run.group.world > 1 or run.micro_batches >= len(images):
                raise
        # outside of the `except`, whose error keeps the tensors alive
        run.micro_batches *= 2
        run.retry_wait = 2 * run.retry_wait if trial else RETRY_BATCHES
        run.retry_in, trial = run.retry_wait, False
        run.optimizer.zero_grad(set_to_none=True)
        run.step_images = 0
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        lost = "" if fresh else "; gradients accumulated before in this step are lost"
        print(f"\nout of memory: this batch and the next {run.retry_in} are computed in {run.micro_batches} parts, "
              f"whose gradients add up to those of the batch, then larger parts are tried again{lost}; a smaller "
              "--batch-size would be faster")


def forward_backward_chunked(run: Training, images: Tensor, targets: PackedTargets,
                             is_step: bool) -> tuple[list[str], Tensor]:
    """`forward_backward` in `run.micro_batches` parts, without a fallback."""
    all_reduce, total = None if run.group.is_single else run.group.sum, 0
    size = -(-len(images) // run.micro_batches)
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    if len(parts) > 1:
        normalisers = _normalisers(run, images, targets, parts)
        all_reduce = lambda _: normalisers  # noqa: E731  each part's loss is its part of the loss of the whole batch
    for part in parts:
        exchange = is_step and part.stop >= len(images)
        with contextlib.nullcontext() if exchange else run.group.no_sync(run.ddp_model):
            with torch.autocast(run.device.type, dtype=run.amp, enabled=run.amp is not None):
                raw = run.ddp_model(images[part], targets=targets[part])
            losses = run.model.loss(raw, targets[part], all_reduce=all_reduce)  # in float32, summed over the images
            # gradients are averaged over processes, the loss is a sum over all of their images
            run.scaler.scale(sum(losses.values()) * run.group.world).backward()
        total = total + torch.stack(list(losses.values())).detach()
    return list(losses), total


def _normalisers(run: Training, images: Tensor, targets: PackedTargets, parts: list[slice]) -> Tensor:
    """What the loss of the whole batch is divided by. It depends on the predictions, so each part is run once without
    gradients; running statistics and random state are restored."""
    amounts: list[Tensor] = []
    snapshot = BufferSnapshot(run.model)
    with torch.no_grad(), torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
        for part in parts:
            with torch.autocast(run.device.type, dtype=run.amp, enabled=run.amp is not None):
                raw = run.ddp_model(images[part], targets=targets[part])
            run.model.loss(raw, targets[part], all_reduce=lambda vector: amounts.append(vector) or vector)
    snapshot.restore()
    return torch.stack(amounts).sum(0)


def step(run: Training) -> None:
    """One optimiser step and one update of the averaged weights. The scaler skips a step whose gradients are not finite
    on the device itself, without waiting for it; `Training.count_skipped_steps` reads how many were skipped. Gradients
    are those of the sum over the images of the step; where the recipe's loss is a mean, they are divided by those."""
    if run.recipe.loss == "mean":
        found = [p.grad for p in run.model.parameters() if p.grad is not None]
        torch._foreach_mul_(found, 1 / run.step_images)
    if run.recipe.clip_grad:
        run.scaler.unscale_(run.optimizer)
        clip_grad_norm_(run.model.parameters(), run.recipe.clip_grad)
    run.scaler.step(run.optimizer)
    if run.scaler.is_enabled():
        run.unread_skips += list(run.scaler._found_inf_per_device(run.optimizer).values())
    # without fp16 the scale stays 1: each skipped step would halve it, and it would never grow
    run.scaler.update(None if run.amp == torch.float16 else 1.0)
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.model)
