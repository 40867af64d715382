"""One training step with the parts of train.py: correctness and synchronisation in every precision."""

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import train
from benchmarks.gpu.context import Context
from benchmarks.gpu.goldens import exact_fp32, relative
from benchmarks.record import PROJECT
from engine.training.config import TrainConfig
from engine.training.setup import make_training, start_model
from engine.training.state import Training
from tests.models.loss_cases import random_targets
from utils.distributed.group import Group
from utils.structures import PackedTargets

NAMES = ["one", "two", "three"]
NOISE = 10  # how many times the CPU's own rounding error in fp32 another device may be off
EXACT = 1e-6  # relative, in float64
NEAR = 0.05  # relative difference of the first loss that bf16 (8 bits) may make
EQUAL, EQUAL_SMALL = (128, 2), (64, 2)  # image size, batch of a step that is compared
COMPILED = 1e-2  # relative, gradients of a compiled step in fp32: other sums, amplified by a fresh model
PRECISION = "yolov8n-assn"


@dataclass(frozen=True)
class Setting:
    """How a step runs. train.py is deterministic on a CPU and lets cuDNN try its algorithms (autotune) on a GPU."""

    amp: str
    layout: torch.memory_format
    deterministic: bool = True
    autotune: bool = False

    def __str__(self) -> str:
        parts = [self.amp, "channels_last" if self.layout == torch.channels_last else "contiguous"]
        return ", ".join([*parts, *["not deterministic"] * (not self.deterministic), *["autotune"] * self.autotune])


PLAIN, CLOSEST = Setting("fp32", torch.contiguous_format), Setting("fp32", torch.channels_last)
AS_TRAINED = Setting("bf16", torch.channels_last, False, True)  # what train.py does on a GPU that knows bf16
SETTINGS = (PLAIN, CLOSEST, Setting("bf16", torch.contiguous_format), Setting("bf16", torch.channels_last),
            AS_TRAINED, Setting("fp16", torch.contiguous_format), Setting("fp16", torch.channels_last, False, True))


@contextlib.contextmanager
def global_settings(setting: Setting) -> Iterator[None]:
    """Determinism and cuDNN's autotuner as `setting` says; put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(setting.deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = setting.autotune
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = before[1]


def make_run(variant: str, imgsz: int, batch: int, device: torch.device, setting: Setting, *,
             optimizer: str | None = None, double: bool = False) -> Training:
    """A training as train.py makes it, the same weights for the same flags."""
    flags = ["--cfg", *variant.split(), "--data", "-", "--imgsz", str(imgsz), "--batch-size", str(batch),
             "--amp", setting.amp, "--noautoanchor"]
    args = train.build_parser().parse_args(flags + (["--optimizer", optimizer] if optimizer else []))
    torch.manual_seed(0)
    with contextlib.redirect_stdout(None):
        model, config, recipe = start_model(TrainConfig.from_args(args), NAMES, lambda imgsz: np.zeros((0, 2)))
        model = (model.double() if double else model).to(device, memory_format=setting.layout)
        run = make_training(config, recipe, model, Group(), device, 100)
    run.model.train()
    return run


def make_batch(imgsz: int, batch: int, device: torch.device,
               layout: torch.memory_format) -> tuple[Tensor, PackedTargets]:
    """uint8 noise (B, 3, S, S) and up to 30 boxes in each image, one of them a crowd region."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, imgsz, imgsz), dtype=torch.uint8, generator=generator)
    targets = random_targets(batch, 30, imgsz, len(NAMES))
    targets.ignore[0, 0], targets.valid[0, 0] = True, False
    return images.to(device, memory_format=layout), targets.to(device)


def forward_backward(run: Training, images: Tensor, targets: PackedTargets) -> dict[str, Tensor]:
    """The first half of a step of train.py, up to the gradients; `train.step` is the other."""
    names, losses = train.forward_backward(run, images, targets, is_step=True)
    return dict(zip(names, losses, strict=True))


def measure(context: Context, variant: str) -> None:
    """Loss terms, gradients, updates and averaged weights of one step against the CPU; and whether a step waits.

    In float64 the device must agree with the CPU to many digits. In fp32 both are off from that truth: fresh deep
    models amplify rounding a thousandfold and more, so the CPU's own error, in two memory layouts, says what is to be
    expected (PyTorch's batch norm of channels_last on a CPU adds up in one long fp32 sum: the larger of the two).
    """
    size = EQUAL_SMALL if context.small else EQUAL
    cpu = torch.device("cpu")
    with exact_fp32(), global_settings(CLOSEST):
        truth = _one_step(variant, *size, cpu, PLAIN, double=True)
        rounded = [_one_step(variant, *size, cpu, setting) for setting in (PLAIN, CLOSEST)]
        exact = _one_step(variant, *size, context.device, CLOSEST, double=True)
        ours = _one_step(variant, *size, context.device, CLOSEST)
    for what in truth:
        context.check(f"{what}, float64", relative(exact[what], truth[what]), EXACT)
    for what in truth:
        noise = max(relative(one[what], truth[what]) for one in rounded)
        context.check(f"{what}, fp32", relative(ours[what], truth[what]), max(NOISE * noise, 1e-5))
    for setting in (CLOSEST, AS_TRAINED):
        _check_waiting(context, variant, *size, setting)


def _one_step(variant: str, imgsz: int, batch: int, device: torch.device, setting: Setting,
              double: bool = False) -> dict:
    """Vectors of the loss terms and, over all parameters, of gradient norms, gradients, updates and averages."""
    # SGD, since an update by Adam is the sign of the gradient at first: rounding would turn small ones over.
    run = make_run(variant, imgsz, batch, device, setting, optimizer="SGD", double=double)
    start = _vector(p for p in run.model.parameters())
    averaged = _vector(p for p in run.ema.model.parameters())
    losses = forward_backward(run, *make_batch(imgsz, batch, device, setting.layout))
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    found = {"loss terms": _vector(losses.values()), "gradient norms": _vector(g.double().norm() for g in gradients),
             "gradients": _vector(gradients)}
    train.step(run)
    running = [b for b in run.model.buffers() if b.is_floating_point()]
    return found | {"updates of the weights": _vector(run.model.parameters()) - start,
                    "updates of the averaged weights": _vector(run.ema.model.parameters()) - averaged,
                    "batch-norm statistics": _vector(running)}


def _vector(tensors) -> Tensor:
    """One float64 vector on the CPU, each tensor in its logical order whatever its memory layout."""
    return torch.cat([t.detach().double().cpu().flatten() for t in tensors])


def _check_waiting(context: Context, variant: str, imgsz: int, batch: int, setting: Setting) -> None:
    """Does forward, loss, backward, optimiser or EMA wait for the device? PyTorch raises where one does."""
    what, device = f"no synchronisation in {setting}", context.device
    if not context.cuda:
        context.skip(what, "no CUDA")
        return
    run = make_run(variant, imgsz, batch, device, setting)
    images, targets = make_batch(imgsz, batch, device, setting.layout)

    def whole_step() -> None:
        forward_backward(run, images, targets)
        train.step(run)

    with global_settings(setting):
        whole_step()  # first use creates handles and the optimiser's state
        torch.cuda.synchronize(device)
        note = waits(whole_step)
    context.fact(what, not note, note)


def waits(whole_step: Callable[[], None]) -> str:
    """'' where a step does not synchronise, otherwise where it does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole_step()
    except RuntimeError as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(PROJECT)]
        first = f"{Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno} {str(error).splitlines()[0]}"
    else:
        return ""
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with warnings.catch_warnings(record=True) as caught:  # the first place is known; find them all
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            whole_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)}
    return f"{first}; all: {', '.join(sorted(places))}"


def measure_precision(context: Context) -> None:
    """In every precision and layout: the first loss is near that of fp32, no loss is infinite, and steps are taken."""
    imgsz, batch, steps = (64, 2, 2) if context.small else (320, 8, 12)
    first = 0.0
    for setting in SETTINGS if context.cuda else SETTINGS[1:4:2]:
        with global_settings(setting):
            run = make_run(PRECISION, imgsz, batch, context.device, setting)
            images, targets = make_batch(imgsz, batch, context.device, setting.layout)
            before, losses = _vector(run.model.parameters()), []
            for _ in range(steps):
                losses.append(sum(forward_backward(run, images, targets).values()).detach())
                train.step(run)
        losses = torch.stack(losses).float().cpu()
        first = first or float(losses[0])
        context.check(f"first loss, {setting}", abs(float(losses[0]) / first - 1), NEAR)
        moved = float((_vector(run.model.parameters()) - before).abs().max())
        scale = run.scaler.get_scale() if run.scaler.is_enabled() else 1.0
        context.fact(f"{steps} steps, {setting}", bool(losses.isfinite().all()) and 0 < moved < float("inf"),
                     f"losses {losses[0] / batch:.3f} to {losses[-1] / batch:.3f}, loss scale {scale:.0f}")


def measure_compiled(context: Context) -> None:
    """The first step of a compiled model against that of the plain one, in fp32; how long it took to compile."""
    imgsz, batch = (64, 2) if context.small else (320, 4)
    setting = Setting("fp32", torch.channels_last, deterministic=False)
    found, spans = [], []
    for word in ("", " --compile"):
        torch.compiler.reset()
        variant = "yolov3-tiny" if context.small else PRECISION + word
        with exact_fp32(), global_settings(setting):
            run = make_run(variant, imgsz, batch, context.device, setting, optimizer="SGD")
            if context.small and word:  # on a CPU a compiler of C++ would take minutes
                run.model.model.compile(backend="eager")
            since = time.perf_counter()
            losses = forward_backward(run, *make_batch(imgsz, batch, context.device, setting.layout))
            context.synchronize()
            spans.append(time.perf_counter() - since)
        gradients = _vector(p.grad for p in run.model.parameters() if p.grad is not None)
        found.append((_vector(losses.values()), gradients))
    (losses, gradients), (compiled_losses, compiled_gradients) = found
    context.check("loss terms", relative(compiled_losses, losses), COMPILED / 10)
    context.check("gradients", relative(compiled_gradients, gradients), COMPILED,
                  f"first step {spans[1]:.1f} s, not compiled {spans[0]:.1f} s")
    torch.compiler.reset()
